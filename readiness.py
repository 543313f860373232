"""Whether requests can be served: is Redis there and fit, is a batcher alive, what does its model take."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from errors import ConnectionLost, RedisAway, Unavailable
from inputs import ModelInput
from jobs import JobQueue
from records import Worker

LOOK_EVERY_S = 1.0
LOOK_AGAIN_S = 0.1
TELL_EVERY_S = 1.0
"""How long after a warning that Redis is away the next one may come."""
RETRY_AFTER_S = 1.0
WARM = ("idle", "busy", "breaker_open")
NO_BATCHER = "no batcher is alive and warm; start one, or wait for it"

log = logging.getLogger(__name__)


class Readiness:
    """What this api process knows of Redis and the batchers, looked at once a second, and ten times while not ready.

    override: what the settings say of the model's input instead of what its batchers publish.
    """

    def __init__(
        self, queue: JobQueue, *, worker_timeout_s: float, override: Callable[[ModelInput | None], ModelInput | None]
    ) -> None:
        self._queue = queue
        self._worker_timeout_s = worker_timeout_s
        self._override = override
        self._redis_trouble = "Redis has not been reached yet"
        self._alive_at_s = self._coming_at_s = self._redis_back_s = -math.inf
        self._looked_at_s = self._told_at_s = -math.inf
        self._takes = override(None)
        self._look_now = asyncio.Event()
        self._refreshing = asyncio.Lock()
        self.workers: tuple[Worker, ...] = ()
        self.stopping = False
        """Whether the process is to end: requests are served still, but should go elsewhere."""

    @property
    def redis_is_up(self) -> bool:
        """Whether Redis answered last time."""
        return not self._redis_trouble

    @property
    def model_is_down(self) -> bool:
        """Whether every batcher has found its model server away, several times in a row."""
        return bool(self.workers) and all(worker.state == "breaker_open" for worker in self.workers)

    @property
    def is_abandoned(self) -> bool:
        """Whether batchers were there, and for `worker_timeout_s` none has been, not even one that loads its model."""
        silent_s = time.monotonic() - max(self._alive_at_s, self._coming_at_s)
        return self.redis_is_up and self._worker_timeout_s < silent_s < math.inf

    @property
    def batch_s(self) -> float:
        """What a full batch takes: the harmonic mean of all batchers that know it; 0: not known."""
        known = [worker.batch_s for worker in self.workers if worker.batch_s > 0]
        return len(known) / sum(1 / batch_s for batch_s in known) if known else 0.0

    def require(self) -> ModelInput:
        """Return what the model takes. For `worker_timeout_s` after the last batcher has left another one may come.

        Raises Unavailable saying what is missing.
        """
        if self._redis_trouble:
            raise Unavailable(self._redis_trouble, retry_after_s=RETRY_AFTER_S)
        if time.monotonic() - self._alive_at_s > self._worker_timeout_s:
            raise Unavailable(NO_BATCHER, retry_after_s=RETRY_AFTER_S)
        if self._takes is None:
            raise Unavailable("no batcher has said yet what its model takes", retry_after_s=RETRY_AFTER_S)
        return self._takes

    def require_model(self) -> None:
        """Look whether a request would also be answered soon.

        Raises Unavailable saying what is missing; also where the last batcher has just left, or the model server is
        down, though jobs still wait for them. A Redis that has just come back may have forgotten batchers that live.
        """
        if self.stopping:
            raise Unavailable("this api process is shutting down; ask another one", retry_after_s=RETRY_AFTER_S)
        self.require()
        if not self.workers and time.monotonic() - self._redis_back_s > self._worker_timeout_s:
            raise Unavailable(NO_BATCHER, retry_after_s=RETRY_AFTER_S)
        if self.model_is_down:
            raise Unavailable(
                "the model server is down: the circuit breaker of every batcher is open", retry_after_s=RETRY_AFTER_S
            )

    def trouble(self) -> str | None:
        """Return why a request would not be answered soon, None where it would."""
        try:
            self.require_model()
        except Unavailable as exc:
            return exc.message
        return None

    def redis_failed(self, exc: RedisAway) -> None:
        """Take note that a command failed: until Redis answers again, requests are refused at once.

        Where connections were lost it is looked first: Redis may well be there, and others need not be refused.
        """
        if isinstance(exc, ConnectionLost):
            self._look_now.set()
        else:
            self._note(exc)

    def _note(self, exc: RedisAway) -> None:
        if self.redis_is_up:
            self._look_now.set()
            now_s = time.monotonic()
            if now_s - self._told_at_s >= TELL_EVERY_S:
                reason = str(exc.__cause__ or exc)
                log.warning("Redis is not to be had", extra={"queue": self._queue.name, "reason": reason})
                self._told_at_s = now_s
        self._redis_trouble = exc.message

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self._look_and_note()
            pause_s = LOOK_EVERY_S if self.redis_is_up and self.workers else LOOK_AGAIN_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._look_now.wait()
                self._look_now.clear()
                await asyncio.sleep(LOOK_AGAIN_S / 10)

    async def refresh(self) -> None:
        """Look, for who asks whether this is ready; those who ask while a look is on its way share the next one."""
        asked_s = time.monotonic()
        async with self._refreshing:
            if self.redis_is_up and self._looked_at_s < asked_s:
                await self._look_and_note()

    async def _look_and_note(self) -> None:
        try:
            await self.look()
        except RedisAway as exc:
            self._note(exc)

    async def look(self) -> None:
        """Look once.

        Raises RedisAway.
        """
        self._looked_at_s = time.monotonic()
        if not self.redis_is_up:
            await self._queue.check_fitness()
        else:
            await self._queue.try_to_write()
        workers = await self._queue.workers()
        now_s = time.monotonic()
        if not self.redis_is_up:
            log.info("Redis is there", extra={"queue": self._queue.name})
            self._redis_trouble = ""
            if self._alive_at_s > 0:  # an emptied Redis has forgotten its workers: give them time to beat
                self._alive_at_s = self._redis_back_s = now_s
        self._take_in([worker for worker in workers if worker.silent_s <= self._worker_timeout_s], now_s)

    def _take_in(self, alive: list[Worker], now_s: float) -> None:
        had_some = bool(self.workers)
        if alive:
            self._coming_at_s = now_s
        self.workers = tuple(worker for worker in alive if worker.state in WARM and worker.takes)
        if self.workers and not had_some:
            log.info("ready", extra={"queue": self._queue.name, "workers": len(self.workers)})
        elif had_some and not self.workers:
            log.warning("no batcher is alive and warm")
        if self.workers:
            freshest = min(self.workers, key=lambda worker: worker.silent_s)
            self._alive_at_s = max(self._alive_at_s, now_s - freshest.silent_s)
            self._takes = self._override(freshest.takes)


def override_input(
    *, shape: tuple[int, ...] | None, dtype: str | None, accepts: str | None, fit: str | None
) -> Callable[[ModelInput | None], ModelInput | None]:
    """Return a function that puts the configured parts in place of the published ones."""
    changes = {"shape": shape, "dtype": dtype, "accepts": accepts, "fit": fit}
    given = {name: value for name, value in changes.items() if value is not None}

    def override(published: ModelInput | None) -> ModelInput | None:
        if published is None and shape is None:
            return None
        return replace(published or ModelInput(shape or ()), **given)  # type: ignore[arg-type]  # validated by Settings

    return override
