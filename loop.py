"""The batcher's loop: claim, batch, predict, settle."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import NoReturn

import numpy as np

from batch_sizes import BatchSizes
from batching import BatchEstimate
from breaker import CircuitBreaker
from calls import CallLog
from decoding import Decoder
from errors import InternalError, ModelUnavailable, RedisAway, UnfitRedis
from heart import Heart
from holding import Holding, done_unless, pauses, sleep_unless
from inference import SUSPECT, Inference
from jobs import JobQueue
from logs import ids
from memory import calm_collector
from metrics import JOBS, Metrics
from model_client import ModelClient
from records import Claim, Worker, WorkerState

CLAIMING_TAKES_S = 0.002
"""How long making the next claim takes, until it is known."""
SHORT_WAIT_S = 0.1
"""A wait for company up to this is slept: a quiet Redis looks at the end of a blocking wait ten times a second only."""
LOOK_S = 0.005
"""How often it is looked meanwhile whether the company has come."""
PATIENCE = 0.1
"""The part of a batch's time that an idle worker waits for images which an api is still decoding."""
LONGEST_TRIAL_S = 2.0
"""After a warm-up that took longer no blank batch is run, nor one that would take longer by what one image took."""
HUNG = 70
"""Exit code of a batcher whose own model hangs: whoever runs it starts it again."""

log = logging.getLogger("batcher")


class Batcher:
    """One worker: it holds one claim, and the next one shortly before the model is done with that."""

    def __init__(
        self,
        queue: JobQueue,
        model: ModelClient,
        decoder: Decoder,
        *,
        worker_id: str,
        model_name: str,
        max_batch_size: int,
        allowed_batch_sizes: tuple[int, ...],
        max_wait_s: float,
        lease_s: float,
        max_solo: int,
        model_timeout_s: float,
        result_ttl_s: float,
        longest_estimate_s: float,
        metrics: Metrics,
        call_log: CallLog | None = None,
    ) -> None:
        self._metrics = metrics
        self._queue = queue
        self._model = model
        self._model_name = model_name
        self._sizes = BatchSizes(allowed_batch_sizes)
        self._max_batch_size = min([max_batch_size, *allowed_batch_sizes[-1:]])
        self._max_wait_s = max_wait_s
        self._lease_s = lease_s
        self._model_timeout_s = model_timeout_s
        self.id = worker_id
        self._estimate = BatchEstimate(cap_s=longest_estimate_s, full_size=self._max_batch_size)
        self._breaker = CircuitBreaker()
        self._inference = Inference(
            model,
            decoder,
            model_timeout_s=model_timeout_s,
            estimate=self._estimate,
            sizes=self._sizes,
            breaker=self._breaker,
            worker_id=worker_id,
            metrics=metrics,
            call_log=call_log,
        )
        self._holding = Holding(
            queue,
            worker_id=worker_id,
            lease_s=lease_s,
            max_solo=max_solo,
            model_timeout_s=model_timeout_s,
            result_ttl_s=result_ttl_s,
            describe=self._describe,
        )
        self._is_warm = self._is_gone = self._has_time_ahead = False
        self._block_s = 0.0
        self._claiming_takes_s = CLAIMING_TAKES_S
        self._begun: asyncio.Task[None] | None = None
        self._heart: Heart | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop; what is held then is finished first.

        Raises UnfitRedis or StartError where the start makes no sense.
        """
        self._heart = self._make_heart()
        self._heart.start()
        try:
            if await self._get_ready(stopping):
                while not stopping.is_set():
                    await self.step(stopping)
            if self._begun:
                await self._begun
        finally:
            await self.leave()

    def _make_heart(self) -> Heart:
        loop = asyncio.get_running_loop()

        def count(script: str, seconds: float) -> None:
            loop.call_soon_threadsafe(self._metrics.redis_replied, script, seconds)

        every_s = min(1.0, self._lease_s / 3)
        return Heart(self._queue.twin(count), self._holding.beat_if_possible, self._end_if_hung, every_s=every_s)

    async def step(self, stopping: asyncio.Event) -> None:
        """Serve one claim; make the next one just before the model is done."""
        serving, self._begun = self._begun, None
        if serving is None:
            if (claim := await self._claim(stopping)) is None:
                return
            if not self._has_time_ahead:  # a task of its own would cost as much as a small model does
                await self._serve(claim)
                return
            serving = asyncio.create_task(self._serve(claim))
        if await self._is_nearly_done(serving) and not stopping.is_set() and (claim := await self._claim(stopping)):
            self._begun = asyncio.create_task(self._serve(claim))
        await serving

    async def leave(self) -> None:
        """Give back what is held, without counting it as a death, and take this worker off the list."""
        self._is_gone = True
        if self._heart is not None:  # or a beat of before might come after the last one
            await self._heart.stop()
        await self._holding.leave()

    async def _claim(self, stopping: asyncio.Event) -> Claim | None:
        """Claim; without another claim to serve, wait for the bell if need be. None where nothing was given."""
        alone = self._holding.is_empty
        if alone and not await self._model_runs(stopping):
            return None
        if alone and (pause_s := self._breaker.pause_s(now_s=time.monotonic())) > 0:
            await sleep_unless(stopping, pause_s)
            self._block_s = 0.0  # what was given back is there already
            if stopping.is_set():
                return None
        began_s = time.monotonic()
        claim = await self._holding.claim(
            stopping,
            max_batch_size=1 if self._breaker.is_open else self._max_batch_size,
            least_s=self._estimate.value_s(now_s=began_s),
            max_wait_s=self._max_wait_s,
            patience_s=PATIENCE * self._estimate.usual_s,
            block_s=self._block_s if alone else 0.0,
        )
        if claim is None:
            return None
        self._block_s = claim.block_s
        if claim.jobs:
            if not alone:
                self._claiming_takes_s = time.monotonic() - began_s
            self._has_time_ahead = self._may_claim_ahead(claim)
            return claim
        if alone and 0 < claim.wait_s <= SHORT_WAIT_S:
            await asyncio.sleep(min(claim.wait_s, LOOK_S))
            self._block_s = 0.0
        return None

    async def _model_runs(self, stopping: asyncio.Event) -> bool:
        """Wait for the model's own process, if it is being started; False where told to stop.

        Meanwhile jobs are left to other batchers. Where it cannot be started, jobs are claimed once after each try and
        given back at once: their clients are then told so.
        """
        process = self._model.process
        if process is None or process.is_running:
            return True
        starting = asyncio.create_task(process.until_running())
        if not await done_unless(stopping, starting):
            return False
        self._block_s = 0.0  # what was given back is there already
        if isinstance(starting.exception(), ModelUnavailable):
            self._breaker.failed(now_s=time.monotonic())
        return True

    async def _serve(self, claim: Claim) -> None:
        try:
            async for settlements in self._inference.run(claim.jobs, self._reason(claim)):
                if not settlements:
                    self._holding.moved_on()
                    continue
                for one in settlements:
                    self._metrics.count(JOBS, one.outcome)
                await self._holding.settle(claim.id, settlements)
        except Exception:
            told = {"claim_id": claim.id, "size": len(claim.jobs), "jobs": ids(job.uuid for job in claim.jobs)}
            log.exception("a claim failed", extra=told)
            await self._holding.fail(claim.id, InternalError("an error of this service; its log says more"))

    def _reason(self, claim: Claim) -> str:
        """Return why a claim is as small or large as it is."""
        if claim.suspect:
            return SUSPECT
        if len(claim.jobs) >= self._max_batch_size:
            return "full"
        return "wait_over" if self._max_wait_s > 0 else "idle"

    def _may_claim_ahead(self, claim: Claim) -> bool:
        """Return whether the next claim may be made before this one is over.

        A quick model is not worth it. Suspects run with nothing else in the process, and so does a job that alone is
        blamed if it dies. Batches that are to wait for company do.
        """
        least_s = self._estimate.least_s(len(claim.jobs))
        if 0 < least_s <= 2 * self._claiming_takes_s:  # 0: not known, perhaps since such claims are always split
            # one slow claim must not be the last one that is made ahead
            self._claiming_takes_s = max(CLAIMING_TAKES_S, 0.9 * self._claiming_takes_s)
            return False
        by_itself = claim.suspect or sum(job.verdict == "run" for job in claim.jobs) == 1
        return not (by_itself or self._max_wait_s > 0 or self._breaker.is_open)

    async def _is_nearly_done(self, serving: asyncio.Task[None]) -> bool:
        """Wait until the next claim is to be made; False where this one is to be over first.

        As late as possible, so that the next batch is as full as possible.
        """
        if not self._has_time_ahead:
            return False
        await asyncio.sleep(0)  # the call begins, or the decoding before it
        await self._inference.decoded.wait()
        spare_s = self._inference.calls.expected_end_s - time.monotonic() - 2 * self._claiming_takes_s
        if spare_s <= 0:
            return False
        await asyncio.wait({serving}, timeout=max(0.0, spare_s - self._inference.decode_s))
        return not serving.done()

    def _end_if_hung(self) -> None:
        """End the process where a model in it hangs, which nothing can stop: its leases run out."""
        if self._inference.calls.hangs:
            log.critical(
                "the model hangs: no answer in MICROBATCH_MODEL_TIMEOUT_S; leaving",
                extra={"seconds": self._model_timeout_s},
            )
            exit_now(HUNG)

    def _describe(self) -> Worker:
        """Return what this worker says of itself; other threads ask for it too."""
        state: WorkerState = "idle" if self._holding.is_empty else "busy"
        if self._is_gone:
            state = "gone"
        elif not self._is_warm:
            state = "warming"
        elif self._breaker.is_open:
            state = "breaker_open"
        takes = self._model.takes if self._is_warm else None
        return Worker(self.id, state, 0.0, takes, self._estimate.full_s, self._model_name, self._inference.calls.work)

    async def _get_ready(self, stopping: asyncio.Event) -> bool:
        """Wait for Redis, then for the model; False where told to stop meanwhile.

        Raises UnfitRedis where the first Redis that answers is unfit; one that becomes so later is waited for.
        """
        waiting_for, was_fit = "", False
        for pause_s in pauses():
            if stopping.is_set():
                break
            try:
                await self._queue.check_fitness()
                was_fit = True
                await self._warm_up()
            except (RedisAway, ModelUnavailable) as exc:
                if isinstance(exc, UnfitRedis) and not was_fit:
                    raise
                what = "Redis" if isinstance(exc, RedisAway) else "the model"
                reason = str(exc.__cause__ or exc)
                if what + reason != waiting_for:
                    log.warning("waiting for %s", what, extra={"reason": reason})
                waiting_for = what + reason
                await sleep_unless(stopping, pause_s)
                continue
            self._is_warm = True
            await self._holding.beat_if_possible()  # at once: the api waits for it
            calm_collector()
            log.info("ready", extra={"model": self._model_name, "takes": str(self._model.takes), "worker": self.id})
            return True
        return False

    async def _warm_up(self) -> None:
        """Warm the model up, however long that takes; each time that a call may take, say that it is not over.

        What that tells of a full batch is the first estimate.
        """
        began_s = time.monotonic()
        warming = asyncio.create_task(self._model.warm_up(self._sizes.allowed))
        try:
            while not (await asyncio.wait({warming}, timeout=self._model_timeout_s))[0]:
                log.warning(
                    "the warm-up takes longer than a call may: see MICROBATCH_MODEL_TIMEOUT_S",
                    extra={"seconds": round(time.monotonic() - began_s, 3), "limit_s": self._model_timeout_s},
                )
            await warming
        finally:
            warming.cancel()
        took_s = time.monotonic() - began_s
        if took_s > LONGEST_TRIAL_S:  # then it is all that is known
            self._estimate.begin(took_s, size=self._max_batch_size)
        elif self._model.takes.accepts == "tensor":
            await self._time_blank_batches()

    async def _time_blank_batches(self) -> None:
        """Have an estimate of a full batch before the first one comes; a model that refuses blank images has none yet.

        A full batch is run where it will not take long, by what one image took; once more, since a first one of its
        size may be slow.
        """
        takes, image_s = self._model.takes, 0.0
        for wanted in (1, self._max_batch_size, self._max_batch_size):
            if image_s * self._max_batch_size > LONGEST_TRIAL_S:
                return
            size = self._sizes.padded(wanted)  # as real batches are: a model may be made for certain sizes only
            began_s = time.monotonic()
            try:
                await self._model.predict(np.zeros((size, *takes.shape), takes.dtype))
            except Exception as exc:  # noqa: BLE001  # whatever a model raises; a real batch will tell
                log.debug("a blank batch failed", extra={"size": size, "reason": type(exc).__name__})
                return
            took_s = time.monotonic() - began_s
            image_s = took_s / size
            self._estimate.begin(took_s, size=wanted)


def exit_now(code: int) -> NoReturn:
    """End the process though a thread hangs in it."""
    logging.shutdown()
    os._exit(code)
