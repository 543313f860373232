"""Whether clients are still there while they wait for their answers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Self

from starlette.requests import ClientDisconnect

from asgi import Incoming

LOOK_AFTER_S = 0.02
"""Who is answered within this is not looked after: nothing would be saved."""
LOOK_EVERY_S = 0.01
"""How often those who wait are looked at, at most: a timer of each request's own would cost more than it does."""


class Presence:
    """Cancels what is done for a client that goes away; what is done fast costs next to nothing."""

    def __init__(self) -> None:
        self._recent: deque[_Visit] = deque()
        self._looking = False

    def of(self, incoming: Incoming) -> _Visit:
        """Return a context whose inside is cancelled when the client goes away; its body must have been read.

        It raises ClientDisconnect then.
        """
        visit = _Visit(incoming)
        self._recent.append(visit)
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LOOK_AFTER_S, self._look)
        return visit

    def _look(self) -> None:
        """Watch those who have waited long enough, and come back for the others."""
        now_s = time.monotonic()
        while self._recent and self._recent[0].since_s <= now_s - LOOK_AFTER_S:
            self._recent.popleft().watch()
        self._looking = bool(self._recent)
        if self._looking:
            delay_s = self._recent[0].since_s + LOOK_AFTER_S - now_s
            asyncio.get_running_loop().call_later(max(delay_s, LOOK_EVERY_S), self._look)


class _Visit:
    """One client's wait."""

    __slots__ = ("_gone", "_incoming", "_over", "_waiting", "_watching", "since_s")

    def __init__(self, incoming: Incoming) -> None:
        self.since_s = time.monotonic()
        self._incoming = incoming
        self._over = self._gone = False
        self._waiting: asyncio.Task[object] | None = None
        self._watching: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        """Note whom to cancel."""
        self._waiting = asyncio.current_task()
        return self

    def __exit__(self, kind: type[BaseException] | None, _exc: BaseException | None, _: TracebackType | None) -> None:
        """Watch no more; tell a cancellation that came from here apart."""
        self._over = True
        if self._watching:
            self._watching.cancel()
            self._watching = None  # or it would end as a ring of a dozen objects: collecting those stops all for 20 ms
        if self._gone and kind is asyncio.CancelledError and self._waiting and self._waiting.uncancel() == 0:
            raise ClientDisconnect

    def watch(self) -> None:
        """Begin to watch, unless it is over."""
        if not self._over:
            self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await self._incoming.until_gone()
        if not self._over and self._waiting:
            self._gone = True
            self._waiting.cancel()
