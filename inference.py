"""A claim's jobs through the model: what becomes of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NoReturn
from uuid import uuid4

from batching import Batch, BatchEstimate, group
from errors import DeadlineExceeded, InternalError, ModelFailed, ModelUnavailable, ServiceError, from_code
from model_client import ModelClient
from records import ClaimedJob, Settlement, Timing, error_value, prediction_value, read_payload

log = logging.getLogger(__name__)


class Inference:
    """Runs jobs in batches, one model call at a time.

    model_timeout_s: after this a call to a remote model is cut. A thread cannot be, so where a model in this process
    hangs, `on_hang` ends the process and its leases run out.
    """

    def __init__(
        self,
        model: ModelClient,
        *,
        model_timeout_s: float,
        estimate: BatchEstimate,
        worker_id: str,
        on_hang: Callable[[], NoReturn],
    ) -> None:
        self._model = model
        self._model_timeout_s = model_timeout_s
        self._estimate = estimate
        self._worker_id = worker_id
        self._on_hang = on_hang

    async def run(self, jobs: Sequence[ClaimedJob]) -> AsyncIterator[list[Settlement]]:
        """Yield what becomes of just claimed jobs: first of those that cannot run, then batch by batch."""
        claimed_s = time.monotonic()
        runnable, refusals = [], []
        for job in jobs:
            refusal = _refusal(job)
            if refusal is None:
                try:
                    runnable.append((job, read_payload(job)))
                except InternalError as exc:
                    refusal = _failure(job, exc, Timing(job.queued_s))
            if refusal is not None:
                refusals.append(refusal)
        if refusals:
            yield refusals
        for batch in group(runnable):
            yield await self._predict(batch, waited_s=time.monotonic() - claimed_s)

    async def _predict(self, batch: Batch, *, waited_s: float) -> list[Settlement]:
        """Call the model once; an error of the whole batch becomes each job's."""
        started_s = time.monotonic()
        batch_id = uuid4().hex[:12]
        try:
            predictions = await self._call_model(batch)
        except ServiceError as exc:
            log.warning("batch %s of %d failed: %s", batch_id, len(batch.jobs), exc)
            predictions = [exc] * len(batch.jobs)
        except Exception:
            log.exception("batch %s of %d: the model raised", batch_id, len(batch.jobs))
            predictions = [ModelFailed("the model failed on this image's batch")] * len(batch.jobs)
        ended_s = time.monotonic()
        model_s = ended_s - started_s
        self._estimate.add(model_s, now_s=ended_s)
        log.debug("batch %s of %d took %.4f s", batch_id, len(batch.jobs), model_s)
        return [
            _settlement(
                job, prediction, Timing(job.queued_s + waited_s, model_s, len(batch.jobs), batch_id, self._worker_id)
            )
            for job, prediction in zip(batch.jobs, predictions, strict=True)
        ]

    async def _call_model(self, batch: Batch) -> Sequence[object]:
        """Call the model within its time.

        Raises ModelUnavailable where it does not answer, ModelFailed on a wrong number of predictions.
        """
        try:
            async with asyncio.timeout(self._model_timeout_s):
                predictions = await self._model.predict(batch.images)
        except TimeoutError as exc:
            if self._model.in_process:
                log.critical("the model hangs: no answer in %s s; leaving", self._model_timeout_s)
                self._on_hang()
            raise ModelUnavailable("the model did not answer in time; try again later") from exc
        if len(predictions) != len(batch.jobs):
            log.error("the model gave %d predictions for %d images", len(predictions), len(batch.jobs))
            raise ModelFailed("the model gave a wrong number of predictions")
        return predictions


def _refusal(job: ClaimedJob) -> Settlement | None:
    """Return how a job is settled that must not run, None for one that may."""
    if job.verdict == "run":
        return None
    timing = Timing(queue_s=job.queued_s)
    if job.verdict == "poison":
        given_up = ModelFailed("this image ended the process that ran it, several times; it was given up")
        return Settlement(job.uuid, job.api_id, "dead", error_value(given_up, timing))
    late = "the job's time was over before a model was free"
    return _failure(job, from_code(job.last_code, late) if job.last_code else DeadlineExceeded(late), timing)


def _settlement(job: ClaimedJob, prediction: object, timing: Timing) -> Settlement:
    """Return how a job is settled whose turn has come: by its prediction, or by an error of its own."""
    if not isinstance(prediction, Exception):
        try:
            return Settlement(job.uuid, job.api_id, "ok", prediction_value(prediction, timing))
        except TypeError as exc:
            log.error("a prediction cannot be written as JSON: %s", exc)  # noqa: TRY400  # the traceback is orjson's
            prediction = ModelFailed("the model's prediction cannot be written as JSON")
    if not isinstance(prediction, ServiceError):
        log.warning("the model failed on one image: %s", type(prediction).__name__)
        prediction = ModelFailed("the model failed on this image")
    return _failure(job, prediction, timing)


def _failure(job: ClaimedJob, error: ServiceError, timing: Timing) -> Settlement:
    return Settlement(job.uuid, job.api_id, "error", error_value(error, timing))
