"""What goes back over HTTP: predictions, problems (RFC 9457), and the headers that say where the time went."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson

from asgi import Answer
from errors import ServiceError
from records import Result, Timing

JSON = ((b"content-type", b"application/json"),)
PROBLEM = ((b"content-type", b"application/problem+json"),)
MOST_BATCHES = 32
"""How many batches one answer names: what stands between may take no longer headers."""


def problem(error: ServiceError, headers: Mapping[str, str] | None = None) -> Answer:
    """Return an error as problem+json; Retry-After in whole seconds where it is known."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(error.http_status).phrase,
        "status": error.http_status,
        "code": error.code,
        "detail": error.message,
    }
    answer = Answer(error.http_status, orjson.dumps(body), PROBLEM)
    answer.error = error
    for name, value in (headers or {}).items():
        answer.add(name.lower().encode(), value)
    add_retry_after(answer, error)
    return answer


def add_retry_after(answer: Answer, error: ServiceError) -> None:
    """Say when to come back, in whole seconds, where the answer is one that asks for it."""
    if answer.status_code in (429, 503):
        answer.add(b"retry-after", str(math.ceil(error.retry_after_s or 1)))


def accepted(request_id: str) -> Answer:
    """Return 202: the answer will be at Location."""
    answer = Answer(202, orjson.dumps({"id": request_id, "status": "accepted"}), JSON)
    answer.add(b"location", f"/results/{request_id}")
    return answer


def predictions(request_id: str, outcomes: Sequence[Result | ServiceError]) -> Answer:
    """Return one element an image, in order; where all failed, the first one's error."""
    errors = [outcome if isinstance(outcome, ServiceError) else outcome.error for outcome in outcomes]
    if errors[0] is not None and all(errors):
        return problem(errors[0])
    elements = [_element(outcome) for outcome in outcomes]
    body = b'{"id":"%b","predictions":[%b]}' % (request_id.encode(), b",".join(elements))
    return Answer(200, body, JSON)


def add_timing(
    answer: Answer,
    outcomes: Sequence[Result | ServiceError],
    *,
    decode_s: float | None = None,
    total_s: float | None = None,
) -> None:
    """Say why it took its time: of several images, the slowest, and all batches; what is not known is left out."""
    timings = [outcome.timing for outcome in outcomes if isinstance(outcome, Result)]
    slowest = timings[0] if len(timings) == 1 else max(timings, key=_waited_s, default=Timing())
    decode = "" if decode_s is None else f"decode;dur={decode_s * 1000:.2f}, "
    total = "" if total_s is None else f", total;dur={total_s * 1000:.2f}"
    answer.add(
        b"server-timing",
        f"{decode}queue;dur={slowest.queue_s * 1000:.2f}, model;dur={slowest.model_s * 1000:.2f}{total}",
    )
    answer.add(b"microbatch-batch-size", str(slowest.batch_size))
    if len(timings) > 1:
        answer.add(b"microbatch-batches", _batches(timings))


def _batches(timings: Sequence[Timing]) -> str:
    """Name the batches that the images rode in: `"<id>";size=32;images=14`, where 18 were of other requests."""
    images = Counter((timing.batch_id, timing.batch_size) for timing in timings if timing.batch_size)
    named = images.most_common(MOST_BATCHES)
    return ", ".join(f'"{batch_id}";size={size};images={count}' for (batch_id, size), count in named)


def _waited_s(timing: Timing) -> float:
    return timing.queue_s + timing.decode_s + timing.model_s


def _element(outcome: Result | ServiceError) -> bytes:
    error = outcome if isinstance(outcome, ServiceError) else outcome.error
    if error is not None:
        return orjson.dumps({"error": {"code": error.code, "message": error.message}})
    return outcome.prediction if isinstance(outcome, Result) else b"null"
