"""What a batcher and the process of its model say to each other over a socket: frames of JSON, with a batch behind it.

    4 bytes: how long the JSON is · 8 bytes: how long what follows is · the JSON · the batch's bytes

Nothing is pickled: whoever writes to the socket can say no more than these.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray

from errors import BatchTooLarge, ModelFailed, ServiceError, from_code, has_no_memory, is_error, told
from model_client import NOT_JSON

HEAD = struct.Struct("!IQ")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """One message: a few words as JSON, and the bytes of a batch."""

    words: bytes
    body: bytes | bytearray = b""

    @classmethod
    def of(cls, body: bytes = b"", **words: object) -> Self:
        """Write words as JSON.

        Raises TypeError where they cannot be.
        """
        return cls(_json(words), body)

    def read(self) -> dict[str, Any]:
        """Return the words."""
        words: dict[str, Any] = orjson.loads(self.words)
        return words

    def pieces(self) -> list[bytes | bytearray]:
        """Return it as it is written."""
        return [HEAD.pack(len(self.words), len(self.body)), self.words, self.body]


def of_batch(batch: NDArray[Any]) -> Frame:
    """Return the call that predicts a batch; encoded images one after the other, with their lengths."""
    if batch.dtype == object:
        return Frame.of(b"".join(batch), call="predict", lengths=[len(image) for image in batch])
    return Frame.of(np.ascontiguousarray(batch).tobytes(), call="predict", dtype=batch.dtype.str, shape=batch.shape)


def read_batch(frame: Frame) -> NDArray[Any]:
    """Return the batch of such a call; the model may write to it where the frame's body is a bytearray."""
    words = frame.read()
    if "dtype" in words:
        return np.frombuffer(frame.body, np.dtype(words["dtype"])).reshape(words["shape"])
    images = np.empty(len(words["lengths"]), object)
    start = 0
    for place, length in enumerate(words["lengths"]):
        images[place] = bytes(frame.body[start : start + length])
        start += length
    return images


def of_predictions(predictions: Sequence[object]) -> Frame:
    """Return the answer to such a call.

    An exception in a row's place travels as its text, or as code and message where it is one of ours; so does a row
    that JSON cannot hold. They fail that row alone.
    """
    failed = {str(place): _failure(row) for place, row in enumerate(predictions) if is_error(row)}
    rows = [None if is_error(row) else row for row in predictions]
    try:
        return Frame.of(rows=rows, failed=failed)
    except BaseException:  # noqa: BLE001  # one of the rows', each of which may be of a class with code of its own
        failed |= {str(place): {"not_json": said} for place, row in enumerate(rows) if (said := _not_json(row))}
        return Frame.of(rows=[None if str(place) in failed else row for place, row in enumerate(rows)], failed=failed)


def read_predictions(words: dict[str, Any]) -> list[object]:
    """Return the rows of such an answer, with the exceptions in their places."""
    rows: list[object] = words["rows"]
    for place, failure in words["failed"].items():
        rows[int(place)] = _error(failure)
    return rows


def of_error(exc: BaseException) -> Frame:
    """Return the answer to a call that failed as a whole."""
    return Frame.of(error=_failure(exc), no_memory=has_no_memory(exc))


def error_in(words: dict[str, Any]) -> Exception | None:
    """Return why a call failed as a whole, None where it did not."""
    if "error" not in words:
        return None
    return BatchTooLarge("the model has no memory for this") if words["no_memory"] else _error(words["error"])


def _failure(exc: BaseException) -> dict[str, str]:
    if issubclass(type(exc), ServiceError):
        with suppress(Exception):  # of the model's own class, its message may be anything
            refusal = {"code": exc.code, "message": exc.message}  # type: ignore[attr-defined]  # see is_error
            _json(refusal)
            return refusal
    return {"text": told(exc)}


def _error(failure: dict[str, str]) -> Exception:
    if "not_json" in failure:
        log.error("a prediction cannot be written as JSON", extra={"reason": failure["not_json"]})
        return ModelFailed(NOT_JSON)
    return from_code(failure["code"], failure["message"]) if "code" in failure else RuntimeError(failure["text"])


def _not_json(row: object) -> str:
    """Return why a row cannot be written as JSON; "" where it can."""
    try:
        _json(row)
    except BaseException as exc:  # noqa: BLE001  # as above
        return told(exc)
    return ""


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
