"""What decoding an image takes, estimated from its header: no less than what was measured, see its test."""

from __future__ import annotations

from PIL import Image

import ink
from inputs import ModelInput
from pixels import Target

SPARE_BYTES = 6 * 1024 * 1024
"""Buffers of decoders, metadata, and what lies between two forms of some of the pixels."""
_ROW_BYTES = 8
"""Pillow's pointer to a row; also a factor of its resizing for a pixel of a side."""
_GAP = 3
"""See images.py: a far larger image is averaged in whole pixels first, to so many times the target's side."""
_NARROW = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes of a pixel; of all other modes four."""
_BESIDE = {"WEBP": 16, "TIFF": 5, "BMP": 2}
"""Bytes of a pixel that decoders hold beside the image: WebP's two canvases, a copy and the colours of a lossless
file; a TIFF's one strip, or the image turned; the pixels of a run-length encoded BMP."""
_BESIDE_DEEP_TIFF = 8
_FLOATS_OF_INK = 16
_BITS_PER_SAMPLE = 258


def of_decoder(image: Image.Image, pixels: int, *, scans: int) -> int:
    """Return what a decoder holds beside the image that it writes; pixels: of the whole image, or its largest tile."""
    if image.format in ("JPEG", "MPO"):  # all coefficients, until the last scan
        return 2 * len(image.getbands()) * pixels if scans > 1 else 0
    deep = max(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (0,))) > 8
    return (_BESIDE_DEEP_TIFF if deep else _BESIDE.get(image.format or "", 0)) * pixels


def to_check(image: Image.Image, decoder_bytes: int) -> int:
    """Return the bytes that loading takes."""
    return SPARE_BYTES + _size(image.mode, image.size) + decoder_bytes


def to_decode(image: Image.Image, decoder_bytes: int, takes: ModelInput, mode: Target) -> int:
    """Return the bytes that loading takes, flattening to a mode, turning, and bringing it to what a model takes."""
    loaded, flat = _size(image.mode, image.size), _size(mode, image.size)
    is_flat = image.mode == mode and not image.has_transparency_data
    may_turn = image.format != "TIFF"  # which has been turned when it is loaded
    steps = (
        loaded + decoder_bytes,
        loaded if is_flat else loaded + flat,
        2 * flat if may_turn else flat,
        flat + _fitting(image.size, takes, mode),
    )
    return SPARE_BYTES + max(steps) + 2 * takes.size_bytes


def _size(mode: str, size: tuple[int, int]) -> int:
    """Return the bytes of an image in Pillow, whose rows begin at multiples of four."""
    width, height = size
    return height * (-(-width * _NARROW.get(mode, 4) // 4) * 4 + _ROW_BYTES)


def _fitting(size: tuple[int, int], takes: ModelInput, mode: Target) -> int:
    """Return what lies between the flat image and the one of the model's size."""
    if takes.fit == "ink":
        side = ink.WORK_SIDE
        return _size(mode, (side, size[1])) + 2 * _ROW_BYTES * sum(size) + _FLOATS_OF_INK * 8 * side**2
    height, width = takes.shape[:2]
    across, down = max(1, size[0] // (width * _GAP)), max(1, size[1] // (height * _GAP))
    smaller = -(-size[0] // across), -(-size[1] // down)
    reduced = _size(mode, smaller) if (across, down) != (1, 1) else 0
    return reduced + _size(mode, (width, smaller[1])) + _size(mode, (width, height)) + 2 * _ROW_BYTES * sum(smaller)
