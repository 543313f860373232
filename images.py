"""Encoded bytes → uint8 array of one configured shape, or an error.

Everything here is pure and holds no state, so it may run in any thread. Pillow's own limit of pixels is process-wide:
it is set to ours, and is only the backstop for what a header does not say (a GIF's frames).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base

import ink
import pixel_memory
import tiff_header
from errors import InvalidImage, TooLarge, UnsupportedMediaType
from inputs import Fit, ModelInput
from pixels import Target, flatten

# Pillow warns of odd metadata with words from the file: without this line each such file would leave a line in the
# log and an entry in a registry that is never emptied. What is wrong with the pixels it raises.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_SCANS = 100
"""Scans of a JPEG, each of which costs a pass over all its pixels; a usual progressive one has ten."""
MAX_STRIPS = 65_536
"""Strips or tiles of a TIFF: Pillow makes some 400 bytes of each before it is known what the image takes."""
_PIECE_BYTES = 1024 * 1024
_TILE_WIDTH, _TILE_LENGTH = 322, 323

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What Pillow's decoders were seen to raise on broken files, and what their sources say that they raise.
_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def check(
    data: bytes, *, formats: tuple[str, ...], max_pixels: int, reserve: Callable[[int], None] = lambda _: None
) -> None:
    """Look through an encoded image that a model will decode itself.

    reserve: is told what that takes before it is allocated, and may wait or refuse.
    Raises UnsupportedMediaType, TooLarge or InvalidImage, and what `reserve` raises.
    """
    image, scans = _open(data, formats, max_pixels)
    with _pillow(max_pixels):
        beside = _beside(image, scans)
        image.draft("L", (1, 1))  # a JPEG is read to its end at an eighth of its size
    reserve(pixel_memory.to_check(image, beside))
    with _pillow(max_pixels):
        image.load()


def load_formats() -> None:
    """Load what reads image files, or the first one waits for it."""
    Image.init()


def require_format(data: bytes, formats: tuple[str, ...]) -> None:
    """Look at the first bytes: the rest may be broken.

    Raises UnsupportedMediaType or InvalidImage.
    """
    if not data:
        raise InvalidImage("The image is empty: send the bytes of an image file.")
    if not _begins_as_one_of(formats, data):
        raise UnsupportedMediaType(f"No image of an accepted format: send {_either(formats)}.")


def decode(
    data: bytes,
    *,
    takes: ModelInput,
    formats: tuple[str, ...],
    max_pixels: int,
    reserve: Callable[[int], None] = lambda _: None,
) -> NDArray[Any]:
    """Decode an image and bring it to what a model takes.

    Returns a C-contiguous array of exactly takes.shape and takes.dtype, its values 0..255: grey for (height, width)
    and (height, width, 1), RGB for (height, width, 3). Of several frames or pages it is the first.
    reserve: is told what that takes before it is allocated, and may wait or refuse.
    Raises UnsupportedMediaType, TooLarge or InvalidImage, and what `reserve` raises.
    """
    if not takes.takes_images:
        raise UnsupportedMediaType("This model takes tensors only: send one as .npy (application/x-npy).")
    height, width = takes.shape[:2]
    mode: Target = "RGB" if takes.shape[2:] == (3,) else "L"
    image, scans = _open(data, formats, max_pixels)
    with _pillow(max_pixels):
        beside = _beside(image, scans)
        _draft(image, mode, ink.WORK_SIDE if takes.fit == "ink" else max(height, width))
    reserve(pixel_memory.to_decode(image, beside, takes, mode))
    with _pillow(max_pixels):
        flat = _load(image, mode)
    fitted = _fit(flat, (width, height), takes.fit)
    if fitted is not flat:
        flat.close()
    return np.asarray(fitted).astype(takes.dtype).reshape(takes.shape)


def _open(data: bytes, formats: tuple[str, ...], max_pixels: int) -> tuple[ImageFile.ImageFile, int]:
    """Read the header only: format and pixels are judged before anything is decoded; return a JPEG's scans, too."""
    Image.MAX_IMAGE_PIXELS = max_pixels
    if tiff_header.longest_list(data) > MAX_STRIPS:
        raise InvalidImage("The TIFF is in too many strips: save it again.")
    try:
        with _pillow(max_pixels):
            image = Image.open(io.BytesIO(data), formats=formats)
    except InvalidImage as exc:
        if isinstance(exc.__cause__, UnidentifiedImageError):
            require_format(data, formats)
        raise
    if max(image.width * image.height, _tile_pixels(image)) > max_pixels:
        raise _too_large(max_pixels)
    scans = _scans(data, image) if image.format in ("JPEG", "MPO") else 1
    if scans > MAX_SCANS:
        raise InvalidImage("The JPEG has too many scans: save it again.")
    return image, scans


def _scans(data: bytes, image: ImageFile.ImageFile) -> int:
    """Count a JPEG's starts of scans (FF DA), in a quarter of the time that `bytes.count` takes.

    Pillow has read up to the first one: before it there may be those of a thumbnail. An MPO has several images.
    """
    start = image.fp.tell() if image.format == "JPEG" and image.fp else 0
    each, found = np.frombuffer(data, np.uint8)[start:], 1 if start else 0
    for start in range(0, len(each), _PIECE_BYTES):
        piece = each[start : start + _PIECE_BYTES + 1]
        found += int(np.count_nonzero((piece[:-1] == 0xFF) & (piece[1:] == 0xDA)))
    return found


def _beside(image: ImageFile.ImageFile, scans: int) -> int:
    """Return the bytes that a decoder holds beside the image."""
    return pixel_memory.of_decoder(image, max(image.width * image.height, _tile_pixels(image)), scans=scans)


def _tile_pixels(image: ImageFile.ImageFile) -> int:
    """Return the pixels of a TIFF's tile, which is decoded whole however small the image is."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    sides = image.tag_v2.get(_TILE_WIDTH, 1), image.tag_v2.get(_TILE_LENGTH, 1)
    return int(sides[0] * sides[1]) if all(isinstance(side, int) for side in sides) else 0


def _too_large(max_pixels: int) -> TooLarge:
    return TooLarge(f"The image has more than {max_pixels} pixels: send a smaller one.")


def _begins_as_one_of(formats: tuple[str, ...], data: bytes) -> bool:
    """Tell a file that is broken near its start from one of another format."""
    tests = [test for name in formats if (test := Image.OPEN[name.upper()][1])]
    return any(test(data[:16]) is True for test in tests)


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _draft(image: Image.Image, mode: Target, side: int) -> None:
    """Have a JPEG decoded at as little as twice the target's side: large photos are cheap then.

    That leaves the resizing enough to average.
    """
    image.draft("L" if mode == "L" else None, (2 * side, 2 * side))


def _load(image: Image.Image, mode: Target) -> Image.Image:
    """Decode, flatten to 8-bit grey or RGB, and turn as EXIF says; of each step only the result is kept."""
    image.load()
    turn = _TURNS.get(_orientation(image))
    flat = flatten(image, mode)
    if flat is not image:
        image.close()
    if turn is None:
        return flat
    turned = flat.transpose(turn)
    flat.close()
    return turned


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where the metadata are broken: the pixels may be fine."""
    try:
        found = image.getexif().get(Base.Orientation, 1)
    except _BROKEN:
        return 1
    return found if isinstance(found, int) else 1


def _fit(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    """Bring an image to (width, height) as ModelInput.fit says."""
    if fit == "ink":
        return ink.fit(image, size)
    if fit == "pad":
        return _pad(image, size)
    return _resize(image, size, _middle(image.size, size) if fit == "crop" else (0, 0, *image.size))


def _pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    padded = Image.new(image.mode, size)
    left_top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    padded.paste(_resize(image, inner, (0, 0, *image.size)), left_top)
    return padded


def _middle(size: tuple[int, int], target: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the largest centred box of the target's proportions."""
    scale = min(size[0] / target[0], size[1] / target[1])
    left, top = (size[0] - target[0] * scale) / 2, (size[1] - target[1] * scale) / 2
    return max(0.0, left), max(0.0, top), min(size[0], size[0] - left), min(size[1], size[1] - top)


def _resize(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Resize a box of the image; a far larger one is averaged in whole pixels first, which costs less."""
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


@contextmanager
def _pillow(max_pixels: int) -> Iterator[None]:
    """Translate whatever Pillow raises."""
    try:
        yield
    except _BOMBS as exc:
        raise _too_large(max_pixels) from exc
    except _BROKEN as exc:
        raise InvalidImage("The image is truncated or broken: send the file again, or another one.") from exc
