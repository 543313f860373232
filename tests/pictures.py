"""Image files for tests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

FORMATS = ("jpeg", "png", "webp", "gif", "bmp", "tiff")
MAX_PIXELS = 1_000_000
ORIENTATION = 0x0112


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def colours(width: int = 40, height: int = 24) -> Image.Image:
    """Return a picture that is red on the left, blue on the right, and brighter towards its foot."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = np.stack([(1 - x) * 200, y * 120, x * 200], axis=-1)
    return Image.fromarray(channels.astype(np.uint8))


def exif(orientation: int) -> bytes:
    """Return EXIF metadata that hold an orientation."""
    metadata = Image.Exif()
    metadata[ORIENTATION] = orientation
    return metadata.tobytes()
