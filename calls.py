"""What is told of the calls of a batcher's model: log lines, and spans where traces are on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from errors import told
from logs import ids
from records import ClaimedJob
from tracing import Call, Tracing

log = logging.getLogger(__name__)


class CallLog:
    """Tells of calls; tracing: None where traces are off."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self._tracing = tracing

    def claimed(self, jobs: Sequence[ClaimedJob], *, claimed_s: float, decode_s: float) -> None:
        """Tell of jobs that are about to be run."""
        if self._tracing is not None:
            self._tracing.claimed(jobs, claimed_s=claimed_s, decode_s=decode_s)

    def done(self, call: Call) -> None:
        """Tell of a call that gave predictions."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("batch done", extra=_fields(call))
        if self._tracing is not None:
            self._tracing.called(call)

    def failed(self, call: Call, *, seen: bool) -> None:
        """Tell of a call that failed; seen: it is a part of a batch whose traceback has been logged."""
        jobs = ids(job.uuid for job in call.jobs)
        log.warning("batch failed", extra={**_fields(call), "jobs": jobs}, exc_info=None if seen else call.error)
        if self._tracing is not None:
            self._tracing.called(call)

    def unanswered(self, call: Call) -> None:
        """Tell of a call that found no model."""
        log.warning("batch found no model", extra={**_fields(call), "reason": told(call.error) if call.error else ""})
        if self._tracing is not None:
            self._tracing.called(call)


def _fields(call: Call) -> dict[str, object]:
    return {
        "batch_id": call.batch_id,
        "size": len(call.jobs),
        "seconds": round(call.ended_s - call.started_s, 6),
    }
