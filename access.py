"""What is told of each request: its id, on the answer, and how it went, in the log and in its trace."""

from __future__ import annotations

import logging
import time

from asgi import Answer, Incoming
from errors import InternalError
from tracing import Tracing

REQUEST_ID = b"x-request-id"

log = logging.getLogger("api")


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
    status = answer.status_code
    if status >= 400 or log.isEnabledFor(logging.DEBUG):
        _log(incoming, answer, took_s)
    if incoming.trace is not None:
        code = answer.error.code if answer.error else ""
        incoming.trace.end(status, code=code, images=incoming.images, body_bytes=incoming.body_bytes)
    return took_s


def _log(incoming: Incoming, answer: Answer, took_s: float) -> None:
    status, error = answer.status_code, answer.error
    fields: dict[str, object] = {
        "request_id": incoming.id,
        "uuid": incoming.uuid,
        "method": incoming.scope["method"],
        "path": incoming.scope["path"][:200],
        "status": status,
        "seconds": round(took_s, 6),
        "images": incoming.images,
        "bytes": incoming.body_bytes,
    }
    if incoming.context:
        fields["trace_id"] = incoming.context[3:35]
    if error is None:
        if status < 400:
            log.debug("request answered", extra=fields)
        else:
            log.info("the client has gone", extra=fields)
        return
    bug = error.__cause__ if isinstance(error, InternalError) else None
    event = {**fields, "code": error.code, "detail": error.message}
    log.log(logging.ERROR if bug else _level(incoming, status), "request failed", extra=event, exc_info=bug)


def _level(incoming: Incoming, status: int) -> int:
    """Return how much a failure matters; a probe asks again and again, and what it finds is told where it changes."""
    if "/health/" in incoming.scope["path"]:
        return logging.DEBUG
    return logging.WARNING if status >= 500 else logging.INFO
