"""What is sent to be predicted."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from bench.models import Convolution, Wide

PHOTOS = 32
SEED = 7


@dataclass(frozen=True, slots=True)
class Workload:
    """Bodies that are sent in turn, and the settings of the service that answers them."""

    content_type: str
    bodies: tuple[bytes, ...]
    settings: dict[str, str]
    path: str = "/predict"
    headers: Mapping[str, str] = field(default_factory=dict)


def tensors(**settings: str) -> Workload:
    """Return a 3 KB tensor for a model that costs nothing, unless the settings say otherwise."""
    tensor = np.random.default_rng(SEED).integers(0, 256, (32, 32, 3), np.uint8)
    return Workload("application/x-npy", (npy(tensor),), {"MODEL": "simulated"} | settings)


def bytes_tensor(size: int) -> Workload:
    """Return a tensor of so many bytes for a model that costs next to nothing: it adds them up."""
    tensor = np.random.default_rng(SEED).integers(0, 256, size, np.uint8)
    return Workload("application/x-npy", (npy(tensor),), {"MODEL": "simulated", "INPUT_SHAPE": str(size)})


def for_model(model: type[Wide | Convolution]) -> Workload:
    """Return a tensor for a model of bench/models.py."""
    tensor = np.random.default_rng(SEED).integers(0, 256, model.input_shape, np.uint8)
    return Workload("application/x-npy", (npy(tensor),), {"MODEL": f"python:bench.models:{model.__name__}"})


def photos() -> Workload:
    """Return JPEGs of 500 x 375 for a small model that takes 224 x 224."""
    return Workload(
        "image/jpeg", tuple(photo(number) for number in range(PHOTOS)), {"MODEL": "python:bench.models:Small"}
    )


def photo(number: int, width: int = 500, height: int = 375) -> bytes:
    """Return a JPEG of soft shapes and some noise: about 50 KB at 500 x 375, as a photo is."""
    random = np.random.default_rng(SEED + number)
    shapes = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = random.normal(0, 9, (height, width, 3))
    pixels = np.clip(np.asarray(shapes, np.float32) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def npy(tensor: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Return a tensor as `numpy.save` writes it."""
    stream = io.BytesIO()
    np.save(stream, tensor)
    return stream.getvalue()
