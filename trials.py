"""Policy, no I/O: what is done with a batch whose call failed, and who of it is to blame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from batch_sizes import BatchSizes
from batching import Batch
from errors import ModelFailed, ModelProcessEnded, ModelUnavailable, ServiceError, has_no_memory
from records import ReturnKind
from tracing import Call

MOST_GUILTY = 4
"""Jobs that fail alone before the rest of their batch does too, where no call has succeeded: it is the model then."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call said of each job of a batch; predictions: None where its jobs go back in line (`goes_back`)."""

    batch: Batch
    call: Call
    predictions: Sequence[object] | None
    ended_s: float
    goes_back: ReturnKind = "release"


@dataclass(slots=True)
class Trial:
    """A batch while it and its parts are run, and what is known of them.

    claimed_s: when its jobs were claimed. decode_s: what decoding their images took. reason: why they are so few or
    many. is_suspect: one of them may be to blame for a failure, so that a call is cut sooner. cut: whose call was cut
    just now, so that it is to be found out whether the server still answers.
    """

    claimed_s: float
    decode_s: float
    reason: str
    todo: list[Batch]
    is_suspect: bool = False
    cut: tuple[Batch, Call] | None = None
    was_cut: bool = False
    has_ended_process: bool = False
    works: bool = False
    error: ServiceError | None = None
    _guilty: int = 0
    _tried_again: str = ""

    @property
    def late_code(self) -> str:
        """Return the error code of jobs whose time is over before they are run; "" where they only waited."""
        return ModelUnavailable.code if self.was_cut else ""

    @property
    def hopeless(self) -> ServiceError | None:
        """Return the error of them all, where it is the model that fails and not some images."""
        return self.error if self._guilty > MOST_GUILTY and not self.works else None

    def split_after(self, exc: Exception, batch: Batch, sizes: BatchSizes, *, now_s: float) -> ServiceError | None:
        """Have the parts run next of a batch whose call raised; return the error of its one job where that is guilty.

        That takes at most 2 log2(n) further calls for each guilty job.
        """
        parts = self._parts_after(exc, batch, sizes, now_s=now_s)
        if parts:
            self.todo += reversed(parts)
            self.reason = "split"
            return None
        self._guilty += 1
        return self.error

    def _parts_after(self, exc: Exception, batch: Batch, sizes: BatchSizes, *, now_s: float) -> list[Batch]:
        if has_no_memory(exc) and sizes.overflowed(batch, now_s=now_s):  # no image is to blame
            log.warning("the model has no memory for such a batch", extra={"size": len(batch.jobs)})
            return sizes.split(batch)
        self.error = exc if isinstance(exc, ServiceError) else ModelFailed("the model failed on this image")
        self.is_suspect = True
        self.has_ended_process = self.has_ended_process or isinstance(exc, ModelProcessEnded)
        if len(batch.jobs) > 1:
            return list(batch.halves())
        if (
            isinstance(exc, ModelProcessEnded) and batch.jobs[0].uuid != self._tried_again
        ):  # somebody may have killed it
            self._tried_again = batch.jobs[0].uuid
            return [batch]
        return []

    def after_cut(self, batch: Batch, call: Call, *, now_s: float) -> Outcome | None:
        """Return what becomes of jobs whose call was cut while the server answers others: it is one of them.

        Several are run again in halves. One that was cut in better company before is guilty; else others go before it.
        """
        self.is_suspect = True
        if len(batch.jobs) > 1:
            self.todo += reversed(batch.halves())
            self.reason = "split"
            return None
        if self.reason == "split" or batch.jobs[0].last_code:
            return Outcome(batch, call, [ModelFailed("the model took too long on this image")], now_s)
        return Outcome(batch, call, None, now_s, "behind")
