"""Any mode that Pillow decodes → 8-bit grey or RGB on a white ground."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Target = Literal["L", "RGB"]
_WHITE = 255
_BAND_PIXELS = 64 * 1024
"""Converted at once: what lies between the image as decoded and the flat one is never longer than this."""


def flatten(image: Image.Image, mode: Target) -> Image.Image:
    """Return the image as 8-bit grey ("L") or "RGB".

    What is transparent (an alpha channel, or a colour that the file calls transparent) is laid over white. 16-bit
    grey is scaled, not clipped. 32-bit integers count as 16-bit and are clipped to 0..65535. Floats are 0..1 where
    none is above 1, else 0..255, clipped; NaN is 0.
    """
    if image.mode == mode and not image.has_transparency_data:
        return image
    convert = _converter(image)
    if image.width * image.height <= _BAND_PIXELS:
        return convert(image).convert(mode)
    flat = Image.new(mode, image.size, None)
    for box in _bands(image):
        flat.paste(convert(image.crop(box)).convert(mode), box)
    return flat


def _bands(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    columns = min(image.width, _BAND_PIXELS)
    rows = _BAND_PIXELS // columns
    for top in range(0, image.height, rows):
        for left in range(0, image.width, columns):
            yield left, top, min(image.width, left + columns), min(image.height, top + rows)


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return what makes any part of the image grey or RGB of 8 bits."""
    if image.mode == "F":
        scale = _scale(image)
        return lambda part: _narrow(part, lambda values: _floats(values, scale))
    if image.mode.startswith("I"):
        return lambda part: _narrow(part, _integers)
    if image.has_transparency_data:
        return lambda part: _on_white(part.convert("RGBA"))
    if image.mode in ("1", "L", "RGB"):
        return lambda part: part
    return lambda part: part.convert("RGB")  # HSV, LAB and others have no way of their own to grey


def _on_white(image: Image.Image) -> Image.Image:
    """Lay an RGBA image over white; pasting needs a third of the memory of `alpha_composite`."""
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _narrow(image: Image.Image, narrow: Callable[[NDArray[Any]], NDArray[np.uint8]]) -> Image.Image:
    """Bring 16-bit, 32-bit or float grey to 8 bits."""
    values: NDArray[Any] = np.asarray(image)
    grey = narrow(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = _WHITE
    return Image.fromarray(grey)


def _integers(values: NDArray[Any]) -> NDArray[np.uint8]:
    wide: NDArray[np.uint32] = np.clip(values, 0, 65535).astype(np.uint32)
    return ((wide + 128) // 257).astype(np.uint8)  # x / 257 rounded: 65535 is exactly 255


def _scale(image: Image.Image) -> int:
    """Return by what floats are multiplied: whether they are 0..1 only all of them together tell."""
    is_small = all(_finite(np.asarray(image.crop(box))).max(initial=0.0) <= 1 for box in _bands(image))
    return _WHITE if is_small else 1


def _finite(values: NDArray[Any]) -> NDArray[np.float32]:
    finite: NDArray[np.float32] = np.nan_to_num(values, nan=0.0, posinf=_WHITE, neginf=0.0)
    return finite


def _floats(values: NDArray[Any], scale: int) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = np.rint(np.clip(_finite(values) * scale, 0, _WHITE)).astype(np.uint8)
    return grey
