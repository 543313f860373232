"""What becomes of a claimed job, as the settlement that says so: it may not run, it has run, it goes back. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from batching import Batch, Runnable
from errors import DeadlineExceeded, InternalError, ModelFailed, ServiceError, from_code
from records import (
    ClaimedJob,
    Settlement,
    Timing,
    context_of,
    error_value,
    prediction_value,
    read_payload,
)

MOST_LOGGED = 1000
"""How much of what a model says of an image is logged, in characters."""

log = logging.getLogger(__name__)


def sort_out(jobs: Iterable[ClaimedJob]) -> tuple[list[Runnable], list[Settlement]]:
    """Return the jobs that may run with their images, and the settlements of those that may not."""
    runnable, refusals = [], []
    for job in jobs:
        if job.verdict == "run":
            try:
                runnable.append((job, read_payload(job)))
            except InternalError as exc:
                log.warning("a job cannot be read", extra={**_named(job), "reason": exc.message})
                refusals.append(failed(job, exc, Timing(job.queued_s)))
        elif job.verdict == "poison":
            log.warning("a job is given up: it ended each process that ran it", extra=_named(job))
            given_up = ModelFailed("this image ended the process that ran it, several times; it was given up")
            refusals.append(Settlement(job.uuid, job.api_id, "dead", error_value(given_up, Timing(job.queued_s))))
        else:
            refusals.append(_late(job, 0.0))
    return runnable, refusals


def in_time(batch: Batch, elapsed_s: float) -> tuple[Batch, list[Settlement]]:
    """Return what of a batch still has time so long after its claim, and the settlements of what has not."""
    late = {place for place, job in enumerate(batch.jobs) if job.remaining_s <= elapsed_s}
    if not late:
        return batch, []
    rest = batch.part([place for place in range(len(batch.jobs)) if place not in late])
    return rest, [_late(batch.jobs[place], elapsed_s) for place in sorted(late)]


def given_back(batch: Batch, code: str = "") -> list[Settlement]:
    """Return the settlements that put jobs back at the head of the line; code: of the error that was the reason."""
    return [Settlement(job.uuid, job.api_id, "release", code.encode()) for job in batch.jobs]


def settled(job: ClaimedJob, prediction: object, timing: Timing) -> Settlement:
    """Return how a job is settled whose turn has come: by its prediction, or by an error of its own."""
    if not isinstance(prediction, Exception):
        try:
            return Settlement(job.uuid, job.api_id, "ok", prediction_value(prediction, timing))
        except TypeError as exc:
            told = {**_named(job), "reason": str(exc)}
            log.error("a prediction cannot be written as JSON", extra=told)  # noqa: TRY400  # the traceback is orjson's
            prediction = ModelFailed("the model's prediction cannot be written as JSON")
    if not isinstance(prediction, ServiceError):
        log.warning("the model failed on an image", extra={**_named(job), "reason": repr(prediction)[:MOST_LOGGED]})
        prediction = ModelFailed("the model failed on this image")
    return failed(job, prediction, timing)


def failed(job: ClaimedJob, error: ServiceError, timing: Timing) -> Settlement:
    """Return the settlement that gives a job an error."""
    return Settlement(job.uuid, job.api_id, "error", error_value(error, timing))


def _late(job: ClaimedJob, waited_s: float) -> Settlement:
    """Give up a job whose time is over; where its last try failed for want of the model, that is what it says."""
    log.debug("a job's time was over before a model was free", extra=_named(job))
    late = "the job's time was over before a model was free"
    error = from_code(job.last_code, "the model was not available in time") if job.last_code else DeadlineExceeded(late)
    return Settlement(job.uuid, job.api_id, "late", error_value(error, Timing(job.queued_s + waited_s)))


def _named(job: ClaimedJob) -> dict[str, object]:
    context = context_of(job)
    return {"job": job.uuid, "trace_id": context[3:35]} if context else {"job": job.uuid}
