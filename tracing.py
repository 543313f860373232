"""The door to traces: what both kinds of process tell of requests and calls, and `load_tracing` of where it goes.

A request's context (W3C Trace Context) travels with its jobs, so that batchers add to its trace what they do with them.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from errors import is_error
from records import ClaimedJob

ROOMS = {"otlp": "otlp"}
"""Where the `open_tracing` of each kind is. Nothing is imported while traces are off."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the model with a batch; times by the monotonic clock.

    predictions: of each job, an Exception in a failed one's place. error: of the call as a whole.
    """

    jobs: tuple[ClaimedJob, ...]
    batch_id: str
    started_s: float
    ended_s: float = 0.0
    predictions: Sequence[object] = ()
    error: Exception | None = None

    def over(self, predictions: Sequence[object] = (), error: Exception | None = None) -> Call:
        """Return it as it stands at its end, which is now."""
        return replace(self, ended_s=time.monotonic(), predictions=predictions, error=error)

    def error_of(self, place: int) -> Exception | None:
        """Return why a job has no prediction."""
        said = self.predictions[place] if place < len(self.predictions) else None
        return said if is_error(said) else self.error


class RequestTrace(Protocol):
    """The span of one request."""

    @property
    def context(self) -> str:
        """Return what travels with its jobs; "" where the request is not sampled."""

    def prepared(self, took_s: float) -> None:
        """Add the preparation of its images, which has just ended."""

    def end(self, status: int, *, code: str, images: int, body_bytes: int) -> None:
        """End it with the answer; code: of the error, "" where there is none."""


class Tracing(Protocol):
    """Where spans go. None of its methods raises or waits."""

    def request(self, headers: Mapping[str, str], attributes: Mapping[str, str]) -> RequestTrace:
        """Begin the span of a request, in the trace that its headers name; attributes: as HTTP's conventions are."""

    def claimed(self, jobs: Sequence[ClaimedJob], *, claimed_s: float, decode_s: float) -> None:
        """Add to each job's trace how long it lay in the queue, and the decoding that followed."""

    def called(self, call: Call) -> None:
        """Add one span of the batch, linked to each job's request, and to each of their traces the call."""

    def close(self) -> None:
        """Send what is left, and wait for that a moment."""


OpenTracing = Callable[[str, str, str], Tracing]
"""Opens it for a kind of process, "api" or "batcher", its id, and the name of its model, "" for none."""


def load_tracing(kind: str) -> OpenTracing | None:
    """Import what the setting asks for; None: off.

    Raises StartError where it is not installed.
    """
    if kind == "off":
        return None
    opener: OpenTracing = importlib.import_module(ROOMS[kind]).open_tracing
    return opener
