"""A claim's jobs through the model: what becomes of each.

A batch that fails is split in two and run again, down to the guilty jobs, which fail alone. Where the model itself is
unavailable its jobs are given back, to be tried again within their deadline.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from secrets import token_hex

from batch_sizes import BatchSizes
from batching import Batch, BatchEstimate, Runnable, group
from breaker import CircuitBreaker
from calls import CallLog
from decoding import Decoder
from errors import BatchTooLarge, ModelFailed, ModelUnavailable, ServiceError, tells_of_no_memory
from logs import ids
from metrics import Metrics
from model_calls import ModelCalls, copied
from model_client import ModelClient
from records import ClaimedJob, Settlement, Timing
from tracing import Call
from verdicts import failed, given_back, in_time, settled, sort_out

MOST_GUILTY = 4
"""Jobs that fail alone before the rest of their batch does too, where no call has succeeded: it is the model then."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a call said of each job of a batch; predictions: None where its jobs are given back."""

    batch: Batch
    call: Call
    predictions: Sequence[object] | None
    ended_s: float


@dataclass(slots=True)
class _Trial:
    """What is known of a batch while its parts are run."""

    claimed_s: float
    decode_s: float
    reason: str
    guilty: int = 0
    works: bool = False
    error: ServiceError | None = None

    @property
    def hopeless(self) -> ServiceError | None:
        """Return the error of them all, where it is the model that fails and not some images."""
        return self.error if self.guilty > MOST_GUILTY and not self.works else None


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
                async for settlements in self._run_batch(batch, _Trial(claimed_s, decode_s, why)):
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

    async def _run_batch(self, batch: Batch, trial: _Trial) -> AsyncIterator[list[Settlement]]:
        todo = [batch]
        while todo:
            async with self._turn:
                part, settlements = in_time(todo.pop(), time.monotonic() - trial.claimed_s)
                outcome = await self._run(part, todo, trial) if part.jobs else None
            if self._claims > 1:
                await asyncio.sleep(0)  # the next batch is with the model while this one's results are written
            if outcome:
                settlements += self._settled(outcome, trial)
            if settlements:
                yield settlements

    async def _run(self, batch: Batch, todo: list[Batch], trial: _Trial) -> _Outcome | None:  # noqa: C901  # split next
        """Call the model, or put the halves of a batch that fails to what is to do.

        That takes at most 2 log2(n) further calls for each guilty job.
        """
        call = Call(batch.jobs, token_hex(6), time.monotonic())
        predictions: Sequence[object] | None = None
        if trial.hopeless:
            predictions = [trial.hopeless] * len(batch.jobs)
        elif self._breaker.pause_s(now_s=call.started_s) == 0:
            try:
                predictions = await self.calls.predict(batch, trial.reason)
            except ModelUnavailable as exc:
                self._call_log.unanswered(call.over(error=exc))
                if not self._breaker.failed(now_s=time.monotonic()):
                    predictions = [exc] * len(batch.jobs)
            except Exception as exc:  # noqa: BLE001  # whatever a model raises; it is logged below
                self._breaker.answered()
                self._call_log.failed(call.over(error=exc), seen=trial.error is not None)
                parts = self._parts_after(exc, batch, trial)
                if parts:
                    todo += reversed(parts)
                    trial.reason = "split"
                    return None
                trial.guilty += 1
                predictions = [trial.error]
            else:
                if self._claims > 1 and self._model.in_process:  # its next call begins before these are written
                    predictions = copied(predictions)
                self._breaker.answered()
                trial.works = True
                now_s = time.monotonic()
                self._sizes.passed(batch, now_s=now_s)
                self._estimate.add(now_s - call.started_s, size=len(batch.jobs), now_s=now_s, decode_s=trial.decode_s)
                self._call_log.done(call.over(predictions))
        return _Outcome(batch, call, predictions, time.monotonic())

    def _parts_after(self, exc: Exception, batch: Batch, trial: _Trial) -> list[Batch]:
        """Return the parts that are to be run of a batch that failed; none: its one job is guilty."""
        now_s = time.monotonic()
        if _has_no_memory(exc) and self._sizes.overflowed(batch, now_s=now_s):  # no image is to blame
            log.warning("the model has no memory for such a batch", extra={"size": len(batch.jobs)})
            return self._sizes.split(batch)
        trial.error = exc if isinstance(exc, ServiceError) else ModelFailed("the model failed on this image")
        return list(batch.halves()) if len(batch.jobs) > 1 else []

    def _settled(self, outcome: _Outcome, trial: _Trial) -> list[Settlement]:
        if outcome.predictions is None:
            log.warning("jobs given back: there is no model", extra=_named(outcome.batch.jobs))
            return given_back(outcome.batch, ModelUnavailable.code)
        model_s = outcome.ended_s - outcome.call.started_s
        waited_s = outcome.call.started_s - trial.claimed_s - trial.decode_s
        jobs = outcome.batch.jobs
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


def _has_no_memory(exc: Exception) -> bool:
    return isinstance(exc, BatchTooLarge) or tells_of_no_memory(f"{type(exc).__name__}: {exc}")
