"""Whatever goes wrong on the way of a request becomes an answer, in the form of the front it came to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from access import tell
from asgi import Answer, Incoming
from errors import BadRequest, InternalError, MethodNotAllowed, NotFound, ServiceError, Unavailable, without_frames

CLIENT_GONE = 499
"""What the metrics count for a client that did not wait; nobody sees it as an answer (the number is nginx's)."""


async def answered(incoming: Incoming, asked: Awaitable[Answer], refuse: Callable[[ServiceError], Answer]) -> Answer:
    """Return the answer, or what `refuse` makes of the error in its place; tell of it, and count it if it is to be."""
    answer = await _answered(asked, refuse)
    took_s = tell(incoming, answer)
    if incoming.metrics is not None:
        incoming.metrics.in_progress -= 1
        incoming.metrics.answered(answer.status_code, _code(answer), took_s)
    return answer


def _code(answer: Answer) -> str:
    if answer.error is not None:
        return answer.error.code
    return "client_gone" if answer.status_code == CLIENT_GONE else "ok"


async def _answered(asked: Awaitable[Answer], refuse: Callable[[ServiceError], Answer]) -> Answer:
    try:
        return await asked
    except ClientDisconnect as exc:
        without_frames(exc)
        return Answer(CLIENT_GONE, b"", ())
    except asyncio.CancelledError:  # by uvicorn, once its grace is over
        return refuse(Unavailable("the service is shutting down; try again"))
    except Exception as exc:  # noqa: BLE001  # uvicorn would cut the connection, and nothing would be counted
        return refuse(service_error(without_frames(exc)))


def service_error(exc: Exception) -> ServiceError:
    """Return any error as one of ours; that of a bug has it as its cause, for the log."""
    if isinstance(exc, ServiceError):
        return exc
    if isinstance(exc, HTTPException):
        known: dict[int, type[ServiceError]] = {404: NotFound, 405: MethodNotAllowed}
        return known.get(exc.status_code, BadRequest)(str(exc.detail))
    if isinstance(exc, RequestValidationError | ClientDisconnect):
        return BadRequest("the request cannot be read")
    bug = InternalError("an error of this service; its log says more")
    bug.__cause__ = exc
    return bug
