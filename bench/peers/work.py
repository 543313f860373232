"""What every peer does with a batch of bodies: sums of tensors, or classes of photos.

It runs in the peers' environments, so it needs numpy and Pillow only.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.models import Small

PREFIX = "BENCH_"
Work = Callable[[Sequence[bytes]], list[bytes]]
"""Bodies of a batch → an answer each: JSON of what the model says and of how many there were in the batch."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a peer's server is told, by its environment: what it starts inherits that, however it starts it.

    batch: the most requests in one model call. workers: processes that run the model. redis: host:port.
    """

    workload: str = "tensors"
    port: int = 0
    batch: int = 32
    workers: int = 1
    redis: str = ""

    def environment(self) -> dict[str, str]:
        """Return the variables that say it."""
        names = ("workload", "port", "batch", "workers", "redis")
        return {PREFIX + name.upper(): str(getattr(self, name)) for name in names}


def options() -> Options:
    """Read the environment."""
    told = {key.removeprefix(PREFIX).lower(): value for key, value in os.environ.items() if key.startswith(PREFIX)}
    numbers = {name: int(told.pop(name)) for name in ("port", "batch", "workers") if name in told}
    return Options(**numbers, **told)  # type: ignore[arg-type]  # the numbers have been taken out


def load(workload: str) -> Work:
    """Return what is to be done, with its model loaded."""
    return sums if workload == "tensors" else Photos()


def sums(bodies: Sequence[bytes]) -> list[bytes]:
    """Return the sums of tensors of one size, sent as their bare bytes."""
    values = np.frombuffer(b"".join(bodies), np.uint8).reshape(len(bodies), -1)
    return _answers(values.sum(axis=1).tolist())


class Photos:
    """The small model over decoded photos."""

    def __init__(self) -> None:
        self._model = Small()

    def __call__(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Return the classes of JPEGs."""
        return _answers(self._model.predict(np.stack([decode(body) for body in bodies])))


def decode(body: bytes) -> NDArray[np.uint8]:
    """Decode a photo to (224, 224, 3) by what the service does to one that is sound, upright and not large."""
    height, width, _ = Small.input_shape
    image = Image.open(io.BytesIO(body)).convert("RGB")
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))


def _answers(values: Sequence[int]) -> list[bytes]:
    return [b"[%d, %d]" % (value, len(values)) for value in values]
