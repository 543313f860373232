"""Images whose right answers are known, no two answers alike."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.digits import Digits
from tests.stack import npy

SIDE, CHANNELS = 32, 3
VALUES = SIDE * SIDE * CHANNELS


@dataclass(frozen=True, slots=True)
class Question:
    """The body of a request, and the predictions that are right for its images."""

    body: bytes
    content_type: str
    right: list[Any]


Ask = Callable[[int], Question]
"""Makes a question of so many images."""


class Sums:
    """For the `simulated` model: an image for each sum, one more each time; up to 783,360 of them."""

    def __init__(self) -> None:
        self._sum = 0

    def __call__(self, count: int) -> Question:
        sums = range(self._sum + 1, self._sum + count + 1)
        self._sum += count
        right = [{"sum": total} for total in sums]
        images = [_image(total) for total in sums]
        if count == 1:
            return Question(npy(images[0]), "application/x-npy", right)
        instances = [{"b64": base64.b64encode(_png(image)).decode()} for image in images]
        return Question(json.dumps({"instances": instances}).encode(), "application/json", right)


class Drawings:
    """For the `digits` model: noise, so faint that no label is sure and each image has scores of its own.

    One tensor a question, since an image file would be searched for ink first.
    """

    def __init__(self, seed: int) -> None:
        self._questions = self._draw(np.random.default_rng(seed))

    def __call__(self, _count: int) -> Question:
        return next(self._questions)

    def _draw(self, random: np.random.Generator) -> Iterator[Question]:
        model, known = Digits(), set()
        while True:
            drawings = random.integers(0, 96, (64, *Digits.takes.shape), dtype=np.uint8)
            for drawing, prediction in zip(drawings, model.predict(drawings), strict=True):
                scores = str(prediction["scores"])
                if scores not in known:
                    known.add(scores)
                    yield Question(npy(drawing), "application/x-npy", [prediction])


def _image(total: int) -> NDArray[np.uint8]:
    each, more = divmod(total, VALUES)
    values = np.full(VALUES, each, np.uint8)
    values[:more] += 1
    return values.reshape(SIDE, SIDE, CHANNELS)


def _png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", compress_level=1)
    return stream.getvalue()
