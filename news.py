"""The news of the queue, as server-sent events: one look four times a second, for all who listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import asdict

import orjson

from errors import Unavailable
from looks import Look
from overview import Watch

EVERY_S = 0.25
LONGEST_LOOK_S = 0.75
"""After this it is said that Redis does not answer; the look itself goes on."""
RETRY_MS = 1000
MOST_LISTENERS = 32
LEAVE_S = 5.0


class News:
    """Looks at the queue while somebody listens, and tells everybody the same.

    look: returns how the queue stands, None where Redis is away. problem: says why requests would be refused, None
    where they would not. stopping: whether the process is to end; streams end then, since the server waits for them.
    """

    def __init__(
        self,
        look: Callable[[], Coroutine[None, None, Look | None]],
        *,
        problem: Callable[[], str | None],
        stopping: Callable[[], bool],
        worker_timeout_s: float,
    ) -> None:
        self._look = look
        self._problem = problem
        self._stopping = stopping
        self._worker_timeout_s = worker_timeout_s
        self._listeners = 0
        self._next: asyncio.Future[bytes]
        self._telling: asyncio.Task[None] | None = None

    def require_room(self) -> None:
        """Look whether one more may listen.

        Raises Unavailable.
        """
        if self._listeners >= MOST_LISTENERS:
            raise Unavailable(
                f"{self._listeners} others are watching already; close a page that nobody needs", retry_after_s=LEAVE_S
            )

    async def stream(self, first: bytes) -> AsyncGenerator[bytes, None]:
        """Yield what is given first, then each piece of news.

        Who reads slowly misses some: nothing is kept for anybody.
        """
        self._listeners += 1
        try:
            yield b"retry: %d\n\n" % RETRY_MS + first
            while event := await self._await_next():
                yield event
        finally:
            self._listeners -= 1

    async def _await_next(self) -> bytes:
        """Wait for the next piece; empty: there will be none."""
        if self._telling is None:
            self._next = asyncio.get_running_loop().create_future()
            self._telling = asyncio.create_task(self._tell())
        return await asyncio.shield(self._next)

    async def _tell(self) -> None:
        """Look and tell, until nobody listens or the process is to end."""
        watch = Watch(worker_timeout_s=self._worker_timeout_s)
        looking: asyncio.Task[Look | None] | None = None
        try:
            while self._listeners and not self._stopping():
                looking = looking or asyncio.create_task(self._look())
                await asyncio.wait({looking}, timeout=LONGEST_LOOK_S)
                look = looking.result() if looking.done() else None
                looking = None if looking.done() else looking
                self._next.set_result(self._event(watch, look))
                self._next = asyncio.get_running_loop().create_future()
                await asyncio.sleep(EVERY_S)
        finally:
            self._next.set_result(b"")
            self._telling = None

    def _event(self, watch: Watch, look: Look | None) -> bytes:
        problem = self._problem() or (None if look else "Redis does not answer")
        shown = asdict(watch.see(look)) if look else {}
        return server_sent({"ready": problem is None, "problem": problem, **shown})


def server_sent(value: object, *, kind: str = "message") -> bytes:
    """Return a value as one event."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(value))
