"""What a batcher and the process of its model say to each other over a socket: frames of JSON, with a batch behind it.

    4 bytes: how long the JSON is · 8 bytes: how long what follows is · the JSON · the batch's bytes

Nothing is pickled: whoever writes to the socket can say no more than these.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import orjson
from numpy.typing import NDArray

HEAD = struct.Struct("!IQ")


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
        return cls(orjson.dumps(words, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS), body)

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
    """Return the answer to such a call; an exception in a row's place travels as its text."""
    failed = {str(place): repr(row) for place, row in enumerate(predictions) if isinstance(row, Exception)}
    return Frame.of(rows=[None if isinstance(row, Exception) else row for row in predictions], failed=failed)
