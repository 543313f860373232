"""A claim's jobs through the model: what becomes of each.

A batch that fails is split in two and run again, down to the guilty jobs, which fail alone. So is one whose call to a
server is cut, while the server answers others. Where the model itself is unavailable its jobs are given back, to be
tried again within their deadline; where its own process hung and was ended, that counts as a death of its jobs (CLAIM).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from secrets import token_hex

from batch_sizes import BatchSizes
from batching import Batch, BatchEstimate, Runnable, group
from breaker import CircuitBreaker
from calls import CallLog
from decoding import Decoder
from errors import CallCut, ModelUnavailable, ServiceError, tame
from logs import ids
from metrics import Metrics
from model_calls import ModelCalls, copied
from model_client import ModelClient, ModelProcess
from records import ClaimedJob, ReturnKind, Settlement, Timing
from tracing import Call
from trials import Outcome, Trial
from verdicts import failed, given_back, in_time, settled, sort_out

SUSPECT = "suspect"
"""The reason of a claim whose jobs were with a process that died."""
GONE_BACK: dict[ReturnKind, str] = {
    "release": "jobs given back: there is no model",
    "behind": "a job given back: the model did not answer it in time, so others are tried first",
    "died": "jobs given back: their model hung or crashed and was ended",
}
"""What is logged of jobs that go back in line."""

log = logging.getLogger(__name__)


class Inference:
    """Runs jobs in batches, one model call at a time; a claim may be prepared while another is with the model.

    model_timeout_s: see ModelCalls.
    """

    def __init__(
        self,
        model: ModelClient,
        decoder: Decoder,
        *,
        model_timeout_s: float,
        estimate: BatchEstimate,
        sizes: BatchSizes,
        breaker: CircuitBreaker,
        worker_id: str,
        metrics: Metrics,
        call_log: CallLog | None = None,
    ) -> None:
        self.calls = ModelCalls(model, model_timeout_s=model_timeout_s, estimate=estimate, sizes=sizes, metrics=metrics)
        self._metrics = metrics
        self._model = model
        self._model_timeout_s = model_timeout_s
        self._decoder = decoder
        self._estimate = estimate
        self._sizes = sizes
        self._breaker = breaker
        self._worker_id = worker_id
        self._call_log = call_log or CallLog()
        self._turn = asyncio.Lock()
        self._claims = 0
        self.decode_s = 0.0
        """What decoding the images of the last claim took."""
        self.decoded = asyncio.Event()
        """Not set while images are decoded."""
        self.decoded.set()

    async def run(self, jobs: Sequence[ClaimedJob], reason: str) -> AsyncIterator[list[Settlement]]:
        """Yield what becomes of just claimed jobs: first of those that cannot run, then call by call.

        reason: why they are so few or many; for the metrics.
        Where the call of another claim stalls they go back: another worker may be idle.
        """
        claimed_s = time.monotonic()
        runnable, refusals = sort_out(jobs)
        if refusals:
            yield refusals
        self._claims += 1
        try:
            runnable, broken = await self._decode(runnable)
            if broken:
                yield broken
            decode_s = self.decode_s
            self._call_log.claimed(jobs, claimed_s=claimed_s, decode_s=decode_s)
            batches = [part for batch in group(runnable) for part in self._sizes.split(batch)]
            for batch in batches:  # now, while the call of another claim may run
                batch.prepare(self._sizes.padded(len(batch.jobs)))
            if not await self._is_free_in_time():
                waiting = [job for batch in batches for job in batch.jobs]
                log.warning("jobs given back: the call before theirs is late", extra=_named(waiting))
                yield [one for batch in batches for one in given_back(batch)]
                return
            for batch in batches:
                why = reason if len(batches) == 1 else "shape"
                trial = Trial(claimed_s, decode_s, why, [batch], is_suspect=reason == SUSPECT)
                async for settlements in self._run_batch(trial):
                    yield settlements
        finally:
            self._claims -= 1

    async def _decode(self, jobs: list[Runnable]) -> tuple[list[Runnable], list[Settlement]]:
        """Make tensors of the image files, where the model takes tensors; settle those that cannot be decoded."""
        files = {place: image for place, (_, image) in enumerate(jobs) if isinstance(image, bytes)}
        self.decode_s = 0.0
        if not files or self._model.takes.accepts == "encoded":
            return jobs, []
        began_s = time.monotonic()
        self.decoded.clear()
        try:
            images = dict(zip(files, await self._decoder.decode(list(files.values()), self._model.takes), strict=True))
        finally:
            self.decoded.set()
        self.decode_s = time.monotonic() - began_s
        runnable, broken = [], []
        for place, (job, own) in enumerate(jobs):
            image = images.get(place, own)
            if isinstance(image, ServiceError):
                broken.append(failed(job, image, Timing(job.queued_s, self.decode_s)))
            else:
                runnable.append((job, image))
        return runnable, broken

    async def _is_free_in_time(self) -> bool:
        """Wait for the call that runs; False where it is late."""
        if not self._turn.locked():
            return True
        limit_s = None if self.calls.late_s == math.inf else self.calls.late_s - time.monotonic()
        try:
            async with asyncio.timeout(limit_s), self._turn:
                return True
        except TimeoutError:
            return False

    async def _run_batch(self, trial: Trial) -> AsyncIterator[list[Settlement]]:
        """Yield what becomes of a batch's jobs after each call, also where it is nothing yet."""
        while trial.todo or trial.cut:
            settlements: list[Settlement] = []
            async with self._turn:
                if trial.cut:
                    outcome = await self._judge(*trial.cut, trial)
                else:
                    elapsed_s = time.monotonic() - trial.claimed_s
                    part, settlements = in_time(trial.todo.pop(), elapsed_s, trial.late_code)
                    outcome = await self._run(part, trial) if part.jobs else None
            if self._claims > 1:
                await asyncio.sleep(0)  # the next batch is with the model while this one's results are written
            if outcome:
                settlements += self._settled(outcome, trial)
            yield settlements

    async def _run(self, batch: Batch, trial: Trial) -> Outcome | None:
        """Call the model; where the call fails, parts of the batch may be left to do."""
        call = Call(batch.jobs, token_hex(6), time.monotonic())
        if trial.hopeless:
            return Outcome(batch, call, [trial.hopeless] * len(batch.jobs), call.started_s)
        process = self._model.process
        is_running = process is None or process.is_running or await self._runs_again(process, trial)
        if not is_running or self._breaker.pause_s(now_s=call.started_s) > 0:
            kind: ReturnKind = "died" if trial.has_ended_process else "release"
            return Outcome(batch, call, None, time.monotonic(), kind)
        try:
            predictions = await self.calls.predict(batch, trial.reason, is_suspect=trial.is_suspect)
        except CallCut as exc:
            return self._after_cut(exc, batch, call, trial)
        except ModelUnavailable as exc:
            self._call_log.unanswered(call.over(error=exc))
            again = self._breaker.failed(now_s=time.monotonic())
            return Outcome(batch, call, None if again else [exc] * len(batch.jobs), time.monotonic())
        except Exception as exc:  # noqa: BLE001  # whatever a model raises; it is logged there
            return self._after_failure(tame(exc), batch, call, trial)
        return self._after_answer(predictions, batch, call, trial)

    async def _runs_again(self, process: ModelProcess, trial: Trial) -> bool:
        """Return whether the model takes calls again; only parts of a batch that ended its process wait for it."""
        if not trial.has_ended_process:
            return False
        try:
            async with asyncio.timeout(self._model_timeout_s):
                await process.until_running()
        except (TimeoutError, ModelUnavailable):
            return False
        return True

    def _after_answer(self, predictions: Sequence[object], batch: Batch, call: Call, trial: Trial) -> Outcome | None:
        now_s = time.monotonic()
        if self._claims > 1 and self._model.in_process:  # its next call begins before these are written
            predictions = copied(predictions)
        self._breaker.answered()
        trial.works = True
        self.calls.witness = batch.images[0]
        self._sizes.passed(batch, now_s=now_s)
        self._estimate.add(now_s - call.started_s, size=len(batch.jobs), now_s=now_s, decode_s=trial.decode_s)
        self._call_log.done(call.over(predictions))
        return Outcome(batch, call, predictions, now_s)

    def _after_failure(self, exc: Exception, batch: Batch, call: Call, trial: Trial) -> Outcome | None:
        now_s = time.monotonic()
        self._breaker.answered()
        self._call_log.failed(call.over(error=exc), seen=trial.error is not None)
        error = trial.split_after(exc, batch, self._sizes, now_s=now_s)
        return Outcome(batch, call, [error], now_s) if error else None

    def _after_cut(self, exc: CallCut, batch: Batch, call: Call, trial: Trial) -> Outcome | None:
        """Count a death where the call ended the model's process; else leave it to be found out who is to blame."""
        self._call_log.unanswered(call.over(error=exc))
        if self._model.process is not None:
            return Outcome(batch, call, None, time.monotonic(), "died")
        trial.cut, trial.was_cut = (batch, call), True
        return None

    async def _judge(self, batch: Batch, call: Call, trial: Trial) -> Outcome | None:
        """Return what becomes of jobs whose call was cut: that depends on whether the server answers another image."""
        trial.cut = None
        try:
            await self.calls.try_witness()
        except ModelUnavailable as exc:
            if not self._breaker.failed(now_s=time.monotonic()):
                return Outcome(batch, call, [exc] * len(batch.jobs), time.monotonic())
            return Outcome(batch, call, None, time.monotonic(), "behind" if len(batch.jobs) == 1 else "release")
        self._breaker.answered()
        return trial.after_cut(batch, call, now_s=time.monotonic())

    def _settled(self, outcome: Outcome, trial: Trial) -> list[Settlement]:
        jobs = outcome.batch.jobs
        if outcome.predictions is None:
            log.warning(GONE_BACK[outcome.goes_back], extra=_named(jobs))
            return given_back(outcome.batch, ModelUnavailable.code, outcome.goes_back)
        model_s = outcome.ended_s - outcome.call.started_s
        waited_s = outcome.call.started_s - trial.claimed_s - trial.decode_s
        self._metrics.batch_s.see(outcome.ended_s - trial.claimed_s)
        for job in jobs:
            self._metrics.queue_s.see(job.queued_s + waited_s)
        company = (trial.decode_s, model_s, len(jobs), outcome.call.batch_id, self._worker_id)
        return [
            settled(job, prediction, Timing(job.queued_s + waited_s, *company))
            for job, prediction in zip(jobs, outcome.predictions, strict=True)
        ]


def _named(jobs: Sequence[ClaimedJob]) -> dict[str, object]:
    return {"size": len(jobs), "jobs": ids(job.uuid for job in jobs)}
