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
│   └── BatchTooLarge            model_failed            500
├── InternalError                internal_error          500
├── ModelUnavailable             model_unavailable       502
├── Unavailable                  unavailable             503
│   ├── RedisUnreachable         unavailable             503
│   └── UnfitRedis               unavailable             503
└── DeadlineExceeded             deadline_exceeded       504
StartError                       a process cannot start: one line, exit code 1

The message of a ServiceError is shown to clients: it says what happened and what to do next, and never
holds payload bytes, addresses or tracebacks. What only an operator needs goes to the log.
"""

from __future__ import annotations

import re
from traceback import clear_frames
from typing import ClassVar, TypeVar


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


class InternalError(ServiceError):
    """A bug of this service."""

    code = "internal_error"
    http_status = 500


class ModelUnavailable(ServiceError):
    """The model server is down or answers nonsense."""

    code = "model_unavailable"
    http_status = 502


class Unavailable(ServiceError):
    """Redis is unreachable or unfit, no batcher is alive, or the service is shutting down."""

    code = "unavailable"
    http_status = 503


class RedisUnreachable(Unavailable):
    """A command could not be sent to Redis, or its reply did not come: it may have been carried out."""


class UnfitRedis(Unavailable):
    """Redis answers, but would lose or refuse jobs: it evicts, is a replica, or is too old."""


class DeadlineExceeded(ServiceError):
    """No result in time; the job has been cancelled."""

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
