"""How what a process counts comes to Redis: twice a second while there is something new."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from errors import RedisAway, RedisUnreachable
from jobs import JobQueue
from metrics import Amounts, Metrics

EVERY_S = 0.5
ROW_EVERY = 4
"""In so many rounds a process says what it is doing at least once, though nothing is new."""
LAST_S = 0.5
"""How long the end of a process waits for its last counts to arrive."""

log = logging.getLogger(__name__)


class Publisher:
    """Sends the counts of one process.

    row: tells what the process is doing just now; "" where that is told another way.
    """

    def __init__(self, queue: JobQueue, metrics: Metrics, *, process_id: str, row: Callable[[], str]) -> None:
        self._queue = queue
        self._metrics = metrics
        self._process_id = process_id
        self._row = row
        self._number = 0
        self._sending: Amounts = {}
        self._said = ""
        self._refused = False
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Publish again and again, until cancelled."""
        rounds = 0
        while True:
            rounds += 1
            try:
                await self._publish(self._row(), even_if_idle=rounds % ROW_EVERY == 0)
            except Exception:  # a process that cannot count still serves
                log.exception("counting failed")
            await asyncio.sleep(EVERY_S)

    async def publish(self) -> None:
        """Publish at once what is new."""
        await self._publish(self._row(), even_if_idle=False)

    async def close(self) -> None:
        """Publish what is left, and that this process is gone."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self.publish()  # what is on its way first, then what came meanwhile
                await self._publish("gone", even_if_idle=True)

    async def _publish(self, row: str, *, even_if_idle: bool) -> None:
        """Publish if there is reason to; a Redis that is away hears of it later."""
        self._metrics.add_up()  # however long a call takes or fails, no value is kept until then
        async with self._turn:
            if not self._sending:  # else the last call, whose reply did not come, is made again under its number
                self._sending = self._metrics.take()
                self._number += 1
            if not self._sending and row == self._said and not (row and even_if_idle):
                return
            try:
                await self._queue.count(self._process_id, row, self._number, self._sending)
            except RedisUnreachable as exc:
                log.debug("counts were not heard", extra={"reason": str(exc.__cause__ or exc)})
            except RedisAway as exc:
                if not self._refused:
                    log.warning("Redis does not take what is counted", extra={"reason": str(exc.__cause__ or exc)})
                self._refused = True
            else:
                self._sending, self._said, self._refused = {}, row, False
