"""Whatever goes wrong on the way of a request becomes an answer, in the form of the front it came to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from asgi import Answer
from errors import BadRequest, InternalError, MethodNotAllowed, NotFound, ServiceError, Unavailable
from metrics import Metrics

CLIENT_GONE = 499
"""What the metrics count for a client that did not wait; nobody sees it as an answer (the number is nginx's)."""

log = logging.getLogger("api")


async def answered(
    asked: Awaitable[Answer], refuse: Callable[[ServiceError], Answer], metrics: Metrics | None = None
) -> Answer:
    """Return the answer, or what `refuse` makes of the error in its place.

    metrics: counts it.
    """
    if metrics is None:
        return (await _answered(asked, refuse))[0]
    began_s = time.monotonic()
    metrics.in_progress += 1
    answer, code = await _answered(asked, refuse)
    metrics.in_progress -= 1
    metrics.answered(answer.status_code, code, time.monotonic() - began_s)
    return answer


async def _answered(asked: Awaitable[Answer], refuse: Callable[[ServiceError], Answer]) -> tuple[Answer, str]:
    try:
        answer = await asked
    except ClientDisconnect:
        return Answer(CLIENT_GONE, b"", ()), "client_gone"
    except asyncio.CancelledError:  # by uvicorn, once its grace is over
        error: ServiceError = Unavailable("the service is shutting down; try again")
    except Exception as exc:  # noqa: BLE001  # uvicorn would cut the connection, and nothing would be counted
        error = service_error(exc)
    else:
        return answer, answer.code
    return refuse(error), error.code


def service_error(exc: Exception) -> ServiceError:
    """Return any error as one of ours; a bug is logged."""
    if isinstance(exc, ServiceError):
        return exc
    if isinstance(exc, HTTPException):
        known: dict[int, type[ServiceError]] = {404: NotFound, 405: MethodNotAllowed}
        return known.get(exc.status_code, BadRequest)(str(exc.detail))
    if isinstance(exc, RequestValidationError | ClientDisconnect):
        return BadRequest("the request cannot be read")
    log.error("internal error", exc_info=exc)
    return InternalError("an error of this service; its log says more")
