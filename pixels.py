"""Any mode that Pillow decodes → 8-bit grey or RGB on a white ground."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Target = Literal["L", "RGB"]
_WHITE = 255


def flatten(image: Image.Image, mode: Target) -> Image.Image:
    """Return the image as 8-bit grey ("L") or "RGB".

    What is transparent (an alpha channel, or a colour that the file calls transparent) is laid over white. 16-bit
    grey is scaled, not clipped. 32-bit integers count as 16-bit and are clipped to 0..65535. Floats are 0..1 where
    none is above 1, else 0..255, clipped; NaN is 0.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_narrow(image)).convert(mode)
    if image.has_transparency_data:
        image = _on_white(image.convert("RGBA"))
    elif image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")  # HSV, LAB and others have no way of their own to grey
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    """Lay an RGBA image over white; pasting needs a third of the memory of `alpha_composite`."""
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _narrow(image: Image.Image) -> NDArray[np.uint8]:
    """Bring 16-bit, 32-bit or float grey to uint8, shape (height, width)."""
    values: NDArray[Any] = np.asarray(image)
    grey = _floats(values) if image.mode == "F" else _integers(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = _WHITE
    return grey


def _integers(values: NDArray[Any]) -> NDArray[np.uint8]:
    wide: NDArray[np.uint32] = np.clip(values, 0, 65535).astype(np.uint32)
    return ((wide + 128) // 257).astype(np.uint8)  # x / 257 rounded: 65535 is exactly 255


def _floats(values: NDArray[Any]) -> NDArray[np.uint8]:
    finite: NDArray[np.float32] = np.nan_to_num(values, nan=0.0, posinf=_WHITE, neginf=0.0)
    scale = _WHITE if finite.max(initial=0.0) <= 1 else 1
    grey: NDArray[np.uint8] = np.rint(np.clip(finite * scale, 0, _WHITE)).astype(np.uint8)
    return grey
