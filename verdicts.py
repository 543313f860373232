"""What becomes of a claimed job, as the settlement that says so: it may not run, it has run, it goes back. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import cast

from batching import Batch, Runnable
from errors import DeadlineExceeded, InternalError, ModelFailed, ServiceError, from_code, told
from model_client import NOT_JSON
from records import (
    ClaimedJob,
    ReturnKind,
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


def in_time(batch: Batch, elapsed_s: float, code: str = "") -> tuple[Batch, list[Settlement]]:
    """Return what of a batch still has time so long after its claim, and the settlements of what has not.

    code: of the error of a try since the claim, "" where there was none.
    """
    late = {place for place, job in enumerate(batch.jobs) if job.remaining_s <= elapsed_s}
    if not late:
        return batch, []
    rest = batch.part([place for place in range(len(batch.jobs)) if place not in late])
    return rest, [_late(batch.jobs[place], elapsed_s, code) for place in sorted(late)]


def given_back(batch: Batch, code: str = "", kind: ReturnKind = "release") -> list[Settlement]:
    """Return the settlements that put jobs back in line.

    code: of the error that was the reason. kind: see SETTLE.
    """
    return [Settlement(job.uuid, job.api_id, kind, code.encode()) for job in batch.jobs]


def settled(job: ClaimedJob, prediction: object, timing: Timing) -> Settlement:
    """Return how a job is settled whose turn has come: by its prediction, or by an error of its own.

    Whatever the value of one job is and does when it is written, it fails that job alone.
    """
    if not issubclass(type(prediction), Exception):  # see is_error
        try:
            return Settlement(job.uuid, job.api_id, "ok", prediction_value(prediction, timing))
        except BaseException as exc:  # noqa: BLE001  # the methods of the value's own class run in there
            log.error("a prediction cannot be written as JSON", extra={**_named(job), "reason": told(exc)})  # noqa: TRY400  # the traceback is orjson's
            return failed(job, ModelFailed(NOT_JSON), timing)
    if issubclass(type(prediction), ServiceError):
        with suppress(Exception):  # of the model's own class, its message may be anything
            return failed(job, cast("ServiceError", prediction), timing)
    log.warning(
        "the model failed on an image",
        extra={**_named(job), "reason": told(cast("Exception", prediction))[:MOST_LOGGED]},
    )
    return failed(job, ModelFailed("the model failed on this image"), timing)


def failed(job: ClaimedJob, error: ServiceError, timing: Timing) -> Settlement:
    """Return the settlement that gives a job an error."""
    return Settlement(job.uuid, job.api_id, "error", error_value(error, timing))


def _late(job: ClaimedJob, waited_s: float, code: str = "") -> Settlement:
    """Give up a job whose time is over; where its last try failed for want of the model, that is what it says."""
    log.debug("a job's time was over before a model was free", extra=_named(job))
    late = "the job's time was over before a model was free"
    code = code or job.last_code
    error = from_code(code, "the model was not available in time") if code else DeadlineExceeded(late)
    return Settlement(job.uuid, job.api_id, "late", error_value(error, Timing(job.queued_s + waited_s)))


def _named(job: ClaimedJob) -> dict[str, object]:
    context = context_of(job)
    return {"job": job.uuid, "trace_id": context[3:35]} if context else {"job": job.uuid}
