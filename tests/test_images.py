"""Encoded bytes become an array of exactly what the model takes, or are refused with a reason."""

from __future__ import annotations

import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import images
from errors import InvalidImage, TooLarge, UnsupportedMediaType
from inputs import ModelInput
from tests.pictures import FORMATS, MAX_PIXELS, colours, encoded, exif

STRETCHED = ModelInput((24, 40, 3))


def decoded(data: bytes, takes: ModelInput = STRETCHED, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    return images.decode(data, takes=takes, formats=FORMATS, max_pixels=max_pixels)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 4) + b"IDAT"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_to_its_picture(name: str) -> None:
    # given
    picture = colours()

    # when
    found = decoded(encoded(picture, name))

    # then: lossy formats and palettes are near
    difference = np.abs(found.astype(int) - np.asarray(picture))

    assert difference.mean() < 12


@pytest.mark.parametrize("name", ["png", "bmp", "tiff"])
def test_lossless_pixels_of_the_right_size_come_through_unchanged(name: str) -> None:
    picture = colours()

    found = decoded(encoded(picture, name))

    assert np.array_equal(found, np.asarray(picture))


def test_a_phone_s_multi_picture_file_counts_as_jpeg() -> None:
    # given: two pictures in one JPEG, as phones write them
    data = encoded(colours(), "mpo", save_all=True, append_images=[colours().rotate(180)])

    # when
    found = images.decode(data, takes=STRETCHED, formats=("jpeg",), max_pixels=MAX_PIXELS)

    # then
    assert np.abs(found.astype(int) - np.asarray(colours())).mean() < 12


@pytest.mark.parametrize("name", ["gif", "png", "webp", "tiff"])
def test_of_several_frames_the_first_is_taken(name: str) -> None:
    frames = [Image.new("RGB", (40, 24), colour) for colour in ("red", "lime", "blue")]

    found = decoded(encoded(frames[0], name, save_all=True, append_images=frames[1:], lossless=True))

    assert found[12, 20].tolist() == pytest.approx([255, 0, 0], abs=2)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((9, 7), "uint8"), ((9, 7, 1), "float32"), ((9, 7, 3), "float64"), ((1, 1, 3), "uint8"), ((9, 7), "int16")],
)
@pytest.mark.parametrize("fit", ["stretch", "pad", "crop", "ink"])
def test_the_array_has_exactly_the_shape_and_dtype_taken(shape: tuple[int, ...], dtype: str, fit: Any) -> None:
    found = decoded(encoded(colours(), "png"), ModelInput(shape, dtype, fit=fit if len(shape) == 2 else "pad"))

    assert found.shape == shape
    assert found.dtype == np.dtype(dtype)
    assert found.flags.c_contiguous
    assert found.flags.writeable


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(name: str, orientation: int) -> None:
    # given: upright pixels stored as a camera held another way stores them
    stored_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = colours()
    stored = upright if orientation == 1 else upright.transpose(stored_by[orientation])

    # when
    found = decoded(encoded(stored, name, exif=exif(orientation)))

    # then
    assert np.abs(found.astype(int) - np.asarray(upright)).mean() < 12


@pytest.mark.filterwarnings("ignore:::PIL")  # as images.py sets it where nobody else sets warnings
def test_a_photo_with_broken_metadata_is_still_taken() -> None:
    # given: metadata that end in the middle of an entry
    data = encoded(colours(), "jpeg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x09\x01\x12\x00\x03")

    # when
    found = decoded(data)

    # then
    assert found.shape == (24, 40, 3)


@pytest.mark.parametrize("data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\x00" * 100, b"hello"])
def test_bytes_of_no_accepted_format_are_refused_naming_those_accepted(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="jpeg, png, webp, gif, bmp or tiff"):
        decoded(data)


def test_a_format_that_is_switched_off_is_refused() -> None:
    data = encoded(colours(), "gif")

    with pytest.raises(UnsupportedMediaType, match="send jpeg or png"):
        images.check(data, formats=("jpeg", "png"), max_pixels=MAX_PIXELS)


def test_an_empty_file_is_an_invalid_image() -> None:
    with pytest.raises(InvalidImage, match="empty"):
        decoded(b"")


def test_a_model_of_tensors_takes_no_image() -> None:
    with pytest.raises(UnsupportedMediaType, match=r"\.npy"):
        decoded(encoded(colours(), "png"), ModelInput((128,), "float32"))


@pytest.mark.parametrize("look", [decoded, lambda data: images.check(data, formats=FORMATS, max_pixels=MAX_PIXELS)])
@pytest.mark.parametrize("size", [(1001, 1000), (1500, 1000), (100_000, 100_000), (2**31 - 1, 1)])
def test_pixels_over_the_limit_are_refused_by_the_header_alone(look: Any, size: tuple[int, int]) -> None:
    # given: a header without pixels, which would be invalid if it were decoded
    data = png_header(*size)

    # when
    began = time.monotonic()
    with pytest.raises(TooLarge):
        look(data)

    # then
    assert time.monotonic() - began < 0.5


def test_an_image_of_exactly_the_limit_is_taken() -> None:
    data = encoded(colours(40, 24), "png")

    found = decoded(data, max_pixels=40 * 24)

    assert found.shape == (24, 40, 3)
    with pytest.raises(TooLarge, match="more than 959 pixels"):
        decoded(data, max_pixels=40 * 24 - 1)


def test_our_limit_holds_where_pillow_s_own_would_refuse() -> None:
    # given: more pixels than Pillow takes by itself, in few bytes
    data = encoded(Image.new("1", (10_000, 9_000)), "png")

    # when
    found = decoded(data, ModelInput((2, 2)), max_pixels=200_000_000)

    # then
    assert not found.any()


def test_a_whole_file_passes_the_check() -> None:
    for name in FORMATS:
        images.check(encoded(colours(), name), formats=FORMATS, max_pixels=MAX_PIXELS)


def test_a_large_photo_is_reduced_without_aliasing() -> None:
    # given: black and white columns, one pixel wide
    stripes = np.zeros((1000, 1000), np.uint8)
    stripes[:, ::2] = 255

    # when
    found = [decoded(encoded(Image.fromarray(stripes), name), ModelInput((10, 10))) for name in ("jpeg", "png")]

    # then: they average to grey
    assert np.abs(np.stack(found).astype(int) - 127).max() < 4


def test_stretch_fills_the_frame_with_the_whole_picture() -> None:
    picture = Image.new("L", (100, 50))
    picture.paste(255, (50, 0, 100, 50))

    found = decoded(encoded(picture, "png"), ModelInput((10, 10), fit="stretch"))

    assert found[:, :4].max() < 5
    assert found[:, 6:].min() > 250


def test_pad_keeps_proportions_between_black_borders() -> None:
    white = Image.new("RGB", (100, 50), "white")

    found = decoded(encoded(white, "png"), ModelInput((10, 10, 3), fit="pad"))

    assert found[2:7].min() == 255
    assert not found[:2].any()
    assert not found[7:].any()


def test_crop_keeps_proportions_and_the_middle() -> None:
    picture = Image.new("L", (100, 50))
    picture.paste(255, (25, 0, 75, 50))

    found = decoded(encoded(picture, "png"), ModelInput((10, 10), fit="crop"))

    assert found[:, 1:-1].min() == 255
    assert found.min() > 220  # the filter looks over the edge


@pytest.mark.parametrize("spread", [1, 20, 255])
@pytest.mark.parametrize("dots", [1, 3, 40, 1000])
def test_ink_takes_any_scatter_of_dots(dots: int, spread: int) -> None:
    random = np.random.default_rng(dots)
    for side in (9, 40, 170, 400):
        sheet = random.integers(0, spread, (side, side), np.uint8)
        sheet[tuple(random.integers(0, side, (2, dots)))] = random.integers(0, 256, dots)

        found = decoded(encoded(Image.fromarray(sheet), "png"), ModelInput((8, 8), fit="ink"))

        assert found.shape == (8, 8)


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop", "ink"])
@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (2, 3), (161, 159), (7, 9)])
def test_images_of_any_proportions_fit(size: tuple[int, int], fit: Any) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0]), np.uint8)

    found = decoded(encoded(Image.fromarray(noise), "png"), ModelInput((9, 7), fit=fit))

    assert found.shape == (9, 7)
