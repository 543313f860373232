"""What is told of each request: its id, on the answer, and how it went, in the log and in its trace."""

from __future__ import annotations

import logging
import time

from asgi import Answer, Incoming
from errors import InternalError, QueueFull, Unavailable
from tracing import Tracing

REQUEST_ID = b"x-request-id"

FLOODS = (QueueFull.code, Unavailable.code)
"""Codes of refusals that may come by the thousand a second."""

log = logging.getLogger("api")


class Refusals:
    """Of those that come in floods, lets one a second through: the log must not cost what refusing saves."""

    def __init__(self) -> None:
        self._next_s = dict.fromkeys(FLOODS, 0.0)
        self._left_out = dict.fromkeys(FLOODS, 0)

    def left_out(self, code: str, now_s: float) -> int | None:
        """Return how many of this kind were left out before this one; None: so is this one."""
        if code not in self._next_s:
            return 0
        if now_s < self._next_s[code]:
            self._left_out[code] += 1
            return None
        self._next_s[code], count, self._left_out[code] = now_s + 1, self._left_out[code], 0
        return count


_refusals = Refusals()


def begin(tracing: Tracing, incoming: Incoming, route: str) -> None:
    """Begin the trace of a request, or go on with the one that it belongs to."""
    incoming.trace = tracing.request(
        incoming.headers,
        {
            "http.request.method": incoming.scope["method"],
            "http.route": route,
            "url.path": incoming.scope["path"],
            "url.scheme": incoming.scope["scheme"],
            "microbatch.request.id": incoming.id,
        },
    )


def tell(incoming: Incoming, answer: Answer) -> float:
    """Give an answer its request's id, tell of it, and return how long it took.

    A line for each that failed; for the others only when debugging, since a line costs a third of a small request.
    """
    took_s = time.monotonic() - incoming.started_s
    answer.add(REQUEST_ID, incoming.id)
    if answer.status_code >= 400 or log.isEnabledFor(logging.DEBUG):
        _log(incoming, answer, took_s)
    if incoming.trace is not None:
        code = answer.error.code if answer.error else ""
        incoming.trace.end(answer.status_code, code=code, images=incoming.images, body_bytes=incoming.body_bytes)
    return took_s


def _log(incoming: Incoming, answer: Answer, took_s: float) -> None:
    error = answer.error
    level = _level(incoming, answer)
    left_out = _refusals.left_out(error.code, incoming.started_s + took_s) if error and level > logging.DEBUG else 0
    if left_out is None:
        return
    fields = _fields(incoming, answer, took_s) | ({"left_out": left_out} if left_out else {})
    if error is None:
        log.log(level, "the client has gone" if level > logging.DEBUG else "request answered", extra=fields)
        return
    fields |= {"code": error.code, "detail": error.message}
    bug = error.__cause__ if isinstance(error, InternalError) else None
    log.log(logging.ERROR if bug else level, "request failed", extra=fields, exc_info=bug)


def _level(incoming: Incoming, answer: Answer) -> int:
    """Return how much it matters; a probe asks again and again, and what it finds is told where it changes."""
    if answer.status_code < 400 or "/health/" in incoming.scope["path"]:
        return logging.DEBUG
    return logging.WARNING if answer.status_code >= 500 else logging.INFO


def _fields(incoming: Incoming, answer: Answer, took_s: float) -> dict[str, object]:
    fields: dict[str, object] = {
        "request_id": incoming.id,
        "uuid": incoming.uuid,
        "method": incoming.scope["method"],
        "path": incoming.scope["path"][:200],
        "status": answer.status_code,
        "seconds": round(took_s, 6),
        "images": incoming.images,
        "bytes": incoming.body_bytes,
    }
    if incoming.context:
        fields["trace_id"] = incoming.context[3:35]
    return fields
