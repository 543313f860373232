"""A batcher's heart: a thread that says that it lives, keeps its leases, and ends it where its model hangs.

The thread has an event loop and a connection of its own, since a quick model is called on the batcher's own loop, which
stands still for as long as the call takes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import uvloop

from jobs import JobQueue

log = logging.getLogger(__name__)


class Heart:
    """Beats from `start` to `stop`.

    queue: no other thread may use it. beat: says through it that this worker lives, in the heart's thread; so it may
    only read what belongs to the loop, each thing at once. look: is called as often, in the same thread, whether a beat
    is on its way or not.
    """

    def __init__(
        self,
        queue: JobQueue,
        beat: Callable[[JobQueue], Awaitable[None]],
        look: Callable[[], None],
        *,
        every_s: float,
    ) -> None:
        self._queue = queue
        self._beat = beat
        self._look = look
        self._every_s = every_s
        self._loop = uvloop.new_event_loop()
        self._beating = self._loop.create_task(self._beat_and_look())
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat, at once."""
        self._thread.start()

    async def stop(self) -> None:
        """Beat no more; once this returns no beat is on its way from here."""
        with suppress(RuntimeError):  # it has stopped
            self._loop.call_soon_threadsafe(self._beating.cancel)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._beating)
        self._loop.run_until_complete(self._queue.close())
        self._loop.close()

    async def _beat_and_look(self) -> None:
        await asyncio.gather(self._beat_forever(), self._look_forever())

    async def _beat_forever(self) -> None:
        while True:
            try:
                await self._beat(self._queue)
            except Exception:  # the next one may do better; without any the jobs of this worker would go to others
                log.exception("a beat failed")
            await asyncio.sleep(self._every_s)

    async def _look_forever(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(self._every_s)
