"""The batcher process: claim, batch, predict, settle; as many of them as you like.

Run it with `python batcher.py`; settings come from the environment. SIGTERM and SIGINT stop it once what it holds is
finished.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from typing import NoReturn
from uuid import uuid4

import uvloop

from batching import BatchEstimate
from breaker import CircuitBreaker
from config import Settings, load_settings
from errors import ModelUnavailable, RedisUnreachable, StartError, UnfitRedis
from inference import Inference
from jobs import JobQueue
from memory import calm_collector
from model_client import ModelClient, open_model
from records import Claim, ClaimedJob, Settlement, Worker, WorkerState
from telemetry import set_up_logging

RETRY_S = (0.05, 0.1, 0.2, 0.5)
"""Pauses between tries while Redis or the model is away; the last one repeats."""
SHORT_WAIT_S = 0.1
"""A wait for company up to this is slept: a quiet Redis looks at the end of a blocking wait ten times a second only."""
HUNG = 70
"""Exit code of a batcher whose own model hangs: whoever runs it starts it again."""

log = logging.getLogger("batcher")


class Batcher:
    """One worker: it holds at most one claim at a time.

    model_timeout_s: how long one call may take, and so how long its leases are extended.
    """

    def __init__(
        self,
        queue: JobQueue,
        model: ModelClient,
        inference: Inference,
        breaker: CircuitBreaker,
        *,
        worker_id: str,
        model_name: str,
        max_batch_size: int,
        max_wait_s: float,
        lease_s: float,
        max_solo: int,
        model_timeout_s: float,
        result_ttl_s: float,
        estimate: BatchEstimate,
    ) -> None:
        self._queue = queue
        self._model = model
        self._inference = inference
        self._breaker = breaker
        self._id = worker_id
        self._model_name = model_name
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._lease_s = lease_s
        self._max_solo = max_solo
        self._model_timeout_s = model_timeout_s
        self._result_ttl_s = result_ttl_s
        self._estimate = estimate
        self._state: WorkerState = "warming"
        self._held: dict[str, ClaimedJob] = {}
        self._held_claim = "-"
        self._moved_on_s = 0.0
        self._block_s = 0.0

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop; what is held then is finished first.

        Raises UnfitRedis or StartError where serving makes no sense.
        """
        beating = asyncio.create_task(self._beat_forever())
        try:
            if await self._get_ready(stopping):
                while not stopping.is_set():
                    await self.step(stopping)
        finally:
            beating.cancel()
            await self.leave()

    async def step(self, stopping: asyncio.Event) -> None:
        """Claim once, waiting for the bell where the last claim left nothing, and serve what was given."""
        pause_s = self._breaker.pause_s(now_s=time.monotonic())
        if pause_s > 0:
            await _sleep_unless(stopping, pause_s)
            self._block_s = 0.0  # what was given back is there already
        claim = await self._claim(stopping)
        if claim is None:
            return
        self._block_s = claim.block_s
        if claim.jobs:
            async for settlements in self._inference.run(claim.jobs):
                await self._settle(claim.id, settlements)
        elif 0 < claim.wait_s <= SHORT_WAIT_S:
            await asyncio.sleep(claim.wait_s)
            self._block_s = 0.0

    async def leave(self) -> None:
        """Give back what is held, without counting it as a death, and take this worker off the list."""
        try:
            if self._held:
                log.warning("%d unfinished jobs are given back", len(self._held))
                given_back = [Settlement(job.uuid, job.api_id, "release", b"") for job in self._held.values()]
                await self._queue.settle(self._held_claim, given_back, result_ttl_s=self._result_ttl_s)
            self._state = "gone"
            await self._beat()
        except (RedisUnreachable, UnfitRedis) as exc:  # the leases end by themselves
            log.warning("could not sign off at Redis: %s", exc.__cause__ or exc)

    async def _get_ready(self, stopping: asyncio.Event) -> bool:
        """Wait for Redis, then for the model; False where told to stop meanwhile."""
        waiting_for = ""
        for pause_s in _pauses():
            if stopping.is_set():
                break
            try:
                await self._queue.check_fitness()
                await self._warm_up()
            except (RedisUnreachable, ModelUnavailable) as exc:
                what = f"{'Redis' if isinstance(exc, RedisUnreachable) else 'the model'}: {exc.__cause__ or exc}"
                if what != waiting_for:
                    log.warning("waiting for %s", what)
                waiting_for = what
                await _sleep_unless(stopping, pause_s)
                continue
            self._state = "idle"
            await self._beat_if_possible()  # at once: the api waits for it
            calm_collector()
            log.info("ready: %s takes %s, worker %s", self._model_name, self._model.takes, self._id)
            return True
        return False

    async def _warm_up(self) -> None:
        started_s = time.monotonic()
        await self._model.warm_up()
        took_s = time.monotonic() - started_s
        if took_s > self._model_timeout_s:
            log.warning(
                "the warm-up took %.1f s: a call that long is cut by MICROBATCH_MODEL_TIMEOUT_S=%s",
                took_s,
                self._model_timeout_s,
            )

    async def _claim(self, stopping: asyncio.Event) -> Claim | None:
        """Claim under a new id, and under the same one until a reply has come; None where told to stop first."""
        claim_id = uuid4().hex
        for pause_s in _pauses():
            try:
                claim = await self._queue.claim(
                    claim_id,
                    worker_id=self._id,
                    max_batch_size=1 if self._breaker.is_open else self._max_batch_size,
                    lease_s=self._lease_s,
                    least_s=self._estimate.value_s(now_s=time.monotonic()),
                    max_solo=self._max_solo,
                    max_wait_s=self._max_wait_s,
                    block_s=self._block_s,
                )
            except RedisUnreachable as exc:
                if stopping.is_set():
                    break
                await self._wait_for_redis(exc, stopping, pause_s)
                continue
            self._hold(claim)
            return claim
        return None

    async def _wait_for_redis(self, exc: RedisUnreachable, stopping: asyncio.Event, pause_s: float) -> None:
        """Pause; then look whether the Redis that came back is fit.

        Raises UnfitRedis.
        """
        if pause_s == RETRY_S[0]:
            log.warning("waiting for Redis: %s", exc.__cause__ or exc)
        await _sleep_unless(stopping, pause_s)
        try:
            await self._queue.check_fitness()
        except RedisUnreachable:
            return
        log.info("Redis is back")
        self._block_s = 0.0

    def _hold(self, claim: Claim) -> None:
        self._held = {job.uuid: job for job in claim.jobs}
        self._held_claim = claim.id
        self._moved_on_s = time.monotonic()
        self._state = "busy" if claim.jobs else "idle"

    async def _settle(self, claim_id: str, settlements: list[Settlement]) -> None:
        """Settle, again and again while Redis is away and somebody may still wait for the answer."""
        give_up_s = time.monotonic() + max(self._held[one.uuid].remaining_s for one in settlements)
        for pause_s in _pauses():
            try:
                await self._queue.settle(claim_id, settlements, result_ttl_s=self._result_ttl_s)
                break
            except RedisUnreachable as exc:
                if time.monotonic() > give_up_s:
                    log.warning("%d results found no Redis in time: %s", len(settlements), exc.__cause__ or exc)
                    break
                await asyncio.sleep(pause_s)
        for one in settlements:
            del self._held[one.uuid]
        self._moved_on_s = time.monotonic()

    async def _beat_forever(self) -> None:
        while True:
            await self._beat_if_possible()
            await asyncio.sleep(min(1.0, self._lease_s / 3))

    async def _beat_if_possible(self) -> None:
        try:
            await self._beat()
        except (RedisUnreachable, UnfitRedis) as exc:
            log.debug("beat: %s", exc.__cause__ or exc)

    async def _beat(self) -> None:
        """Publish this worker's row; extend its leases while the running call is younger than it may become."""
        young = time.monotonic() - self._moved_on_s < self._model_timeout_s + self._lease_s
        serving = self._state in ("idle", "busy")
        worker = Worker(
            self._id,
            "breaker_open" if serving and self._breaker.is_open else self._state,
            0.0,
            None if self._state == "warming" else self._model.takes,
            self._estimate.value_s(now_s=time.monotonic()),
            self._model_name,
        )
        uuids = list(self._held) if young else []
        await self._queue.beat(worker, lease_s=self._lease_s, claim_id=self._held_claim, uuids=uuids)


def _pauses() -> Iterable[float]:
    yield from RETRY_S
    while True:
        yield RETRY_S[-1]


async def _sleep_unless(stopping: asyncio.Event, pause_s: float) -> None:
    try:
        async with asyncio.timeout(pause_s):
            await stopping.wait()
    except TimeoutError:
        pass


def _exit_now(code: int) -> NoReturn:
    """End the process though a thread hangs in it."""
    logging.shutdown()
    os._exit(code)


async def serve(settings: Settings, model: ModelClient) -> None:
    """Run one batcher until SIGTERM or SIGINT, and at most `shutdown_grace_s` longer.

    Raises UnfitRedis or StartError where serving makes no sense.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    queue = JobQueue(settings.redis_url, name=settings.queue_name, timeout_s=settings.redis_timeout_s)
    batcher = _assemble(settings, queue, model)
    running = asyncio.create_task(batcher.run(stopping))
    told = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        log.info("stopping: what is held is finished first")
        await asyncio.wait({running}, timeout=settings.shutdown_grace_s)
    if not running.done():
        await batcher.leave()
        _exit_now(0)
    told.cancel()
    await running
    await model.close()
    await queue.close()


def _assemble(settings: Settings, queue: JobQueue, model: ModelClient) -> Batcher:
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:4]}"
    estimate = BatchEstimate(cap_s=settings.request_timeout_s / 2)
    breaker = CircuitBreaker()
    inference = Inference(
        model,
        model_timeout_s=settings.model_timeout_s,
        estimate=estimate,
        breaker=breaker,
        worker_id=worker_id,
        on_hang=lambda: _exit_now(HUNG),
    )
    return Batcher(
        queue,
        model,
        inference,
        breaker,
        worker_id=worker_id,
        model_name=settings.model,
        max_batch_size=settings.max_batch_size,
        max_wait_s=settings.max_wait_s,
        lease_s=settings.lease_s,
        max_solo=settings.max_solo,
        model_timeout_s=settings.model_timeout_s,
        result_ttl_s=settings.result_ttl_s,
        estimate=estimate,
    )


def main() -> int:
    """Start a batcher; return its exit code."""
    try:
        settings = load_settings()
        set_up_logging(settings.log_level)
        uvloop.run(serve(settings, open_model(settings)))
    except (StartError, UnfitRedis) as exc:
        print(f"batcher: {exc}", file=sys.stderr)  # noqa: T201  # a start that fails is one line, not a log record
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
