"""Every failure that crosses a room, in one tree.

ServiceError                     code                    status
├── BadRequest                   bad_request             400
├── NotFound                     not_found               404
│   └── ModelNotFound            model_not_found         404
├── MethodNotAllowed             method_not_allowed      405
├── BodyTimeout                  body_timeout            408
├── TooLarge                     too_large               413
├── UnsupportedMediaType         unsupported_media_type  415
├── InvalidImage                 invalid_image           422
├── IdempotencyKeyReused         idempotency_key_reused  422
├── QueueFull                    queue_full              429
├── ModelFailed                  model_failed            500
│   ├── BatchTooLarge            model_failed            500
│   └── ModelProcessEnded        model_failed            500
├── InternalError                internal_error          500
├── ModelUnavailable             model_unavailable       502
│   └── CallCut                  model_unavailable       502
├── Unavailable                  unavailable             503
│   └── RedisAway                unavailable             503
│       ├── RedisUnreachable     unavailable             503
│       │   ├── ConnectionLost   unavailable             503
│       │   └── NotConnected     unavailable             503
│       ├── RedisRefuses         unavailable             503
│       └── UnfitRedis           unavailable             503
└── DeadlineExceeded             deadline_exceeded       504
StartError                       a process cannot start: one line, exit code 1

The message of a ServiceError is shown to clients: it says what happened and what to do next, and never
holds payload bytes, addresses or tracebacks. What only an operator needs goes to the log.
"""

from __future__ import annotations

import re
from traceback import clear_frames
from typing import ClassVar, TypeGuard, TypeVar

AnyError = TypeVar("AnyError", bound=BaseException)


class ServiceError(Exception):
    """A failure with a stable wire code and an HTTP status."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


MOST_CAUSES = 16
Raised = TypeVar("Raised", bound=BaseException)


def without_frames(error: Raised) -> Raised:
    """Return an error without what the frames that it came through refer to, such as bodies and images.

    Where such a frame refers to the error in turn, all of that would live until the garbage collector runs: seldom.
    The traceback of a bug stays, for the log.
    """
    is_bug = isinstance(error, InternalError) or not isinstance(error, ServiceError)
    at: BaseException | None = error
    for _ in range(MOST_CAUSES):
        if at is None:
            break
        clear_frames(at.__traceback__)
        if not is_bug:
            at.__traceback__ = None
        at = at.__cause__ or at.__context__
    return error


class BadRequest(ServiceError):
    """The request cannot be read: malformed multipart, JSON, base64 or .npy, or no image in it."""

    code = "bad_request"
    http_status = 400


class NotFound(ServiceError):
    """No such path, or a result that is unknown, expired or already answered."""

    code = "not_found"
    http_status = 404


class ModelNotFound(NotFound):
    """A path that names a model which is not served."""

    code = "model_not_found"


class MethodNotAllowed(ServiceError):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    http_status = 405


class BodyTimeout(ServiceError):
    """The body came too slowly."""

    code = "body_timeout"
    http_status = 408


class TooLarge(ServiceError):
    """The body, the pixels of an image or the number of images are over the limit."""

    code = "too_large"
    http_status = 413


class UnsupportedMediaType(ServiceError):
    """An unknown Content-Type, or no accepted image format in the bytes."""

    code = "unsupported_media_type"
    http_status = 415


class InvalidImage(ServiceError):
    """An accepted format, but truncated or broken; or a tensor of the wrong shape or dtype."""

    code = "invalid_image"
    http_status = 422


class IdempotencyKeyReused(ServiceError):
    """An Idempotency-Key that came with another body before."""

    code = "idempotency_key_reused"
    http_status = 422


class QueueFull(ServiceError):
    """The queue is at its limit, or the wait to expect is longer than the request's deadline."""

    code = "queue_full"
    http_status = 429


class ModelFailed(ServiceError):
    """The model raised on this image."""

    code = "model_failed"
    http_status = 500


class BatchTooLarge(ModelFailed):
    """The model has no memory for so many images at once; fewer may pass."""


class ModelProcessEnded(ModelFailed):
    """The process of its own in which the model runs ended within the call."""


class InternalError(ServiceError):
    """A bug of this service."""

    code = "internal_error"
    http_status = 500


class ModelUnavailable(ServiceError):
    """The model server is down or answers nonsense."""

    code = "model_unavailable"
    http_status = 502


class CallCut(ModelUnavailable):
    """The call took longer than it may and was ended."""


class Unavailable(ServiceError):
    """Redis is unreachable or unfit, no batcher is alive, or the service is shutting down."""

    code = "unavailable"
    http_status = 503


class RedisAway(Unavailable):
    """Redis cannot be used now. A running process waits for it; its cause holds the words of Redis or of the system."""


class RedisUnreachable(RedisAway):
    """A command could not be sent to Redis, or its reply did not come: it may have been carried out."""


class ConnectionLost(RedisUnreachable):
    """A connection was lost within a command, and so was a second one; Redis itself may well be there."""


class NotConnected(RedisUnreachable):
    """No connection could be opened: nothing was sent, so nothing was carried out."""


class RedisRefuses(RedisAway):
    """Redis answers that it does not carry out commands now: it is loading, out of memory, or cannot write to disk."""


class UnfitRedis(RedisAway):
    """Redis would lose or refuse jobs: it evicts, is a replica, is too old, or does not let this service in.

    A batcher that starts with such a Redis ends; one that runs waits, since a fail-over or a new password passes.
    """


class DeadlineExceeded(ServiceError):
    """No result in time; a job that nobody else may come back for has been cancelled."""

    code = "deadline_exceeded"
    http_status = 504


class StartError(Exception):
    """A process cannot start as it is configured: printed as one line, exit code 1."""


WIRE_ERRORS: tuple[type[ServiceError], ...] = (
    BadRequest,
    NotFound,
    ModelNotFound,
    MethodNotAllowed,
    BodyTimeout,
    TooLarge,
    UnsupportedMediaType,
    InvalidImage,
    IdempotencyKeyReused,
    QueueFull,
    ModelFailed,
    InternalError,
    ModelUnavailable,
    Unavailable,
    DeadlineExceeded,
)
_BY_CODE = {error.code: error for error in WIRE_ERRORS}


def from_code(code: str, message: str) -> ServiceError:
    """Rebuild the error that another process sent as code and message."""
    return _BY_CODE.get(code, InternalError)(message)


_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|\bOOM\b|failed to allocate memory|bad.?alloc", re.IGNORECASE
)


def tells_of_no_memory(text: str) -> bool:
    """Return whether an error's text says that memory ran out.

    PyTorch, TensorFlow, JAX and ONNX Runtime have no error in common, but each has one of these words in its own.
    """
    return bool(_NO_MEMORY.search(text))


def told(exc: BaseException) -> str:
    """Return an exception's type and message as Unicode text, whatever the `__str__` of a model's own class does."""
    text = text_of(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def text_of(exc: BaseException) -> str:
    """Return an exception's message in the same way."""
    try:
        return f"{exc}".encode(errors="replace").decode()
    except BaseException:  # noqa: BLE001  # it may raise SystemExit, and that must end no batcher
        return "its message cannot be written as text"


def is_error(value: object) -> TypeGuard[Exception]:
    """Return whether a value is an exception, without its own code: `isinstance` would ask its `__class__`."""
    return issubclass(type(value), Exception)


def tame(exc: AnyError) -> AnyError | RuntimeError:
    """Return an exception that can be logged and compared: itself, or its text where its own methods raise."""
    try:
        str(exc), repr(exc), exc.__class__  # each may be the model's own code
    except BaseException:  # noqa: BLE001  # also SystemExit, which must end no batcher
        return RuntimeError(told(exc))
    return exc


def has_no_memory(exc: BaseException) -> bool:
    """Return whether a call failed for want of memory."""
    return issubclass(type(exc), BatchTooLarge) or tells_of_no_memory(told(exc))
