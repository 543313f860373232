"""Whatever mode a file is stored in, it becomes the 8-bit grey or RGB that a viewer would show on white."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import images
from inputs import ModelInput
from pixels import flatten
from tests.pictures import FORMATS, MAX_PIXELS, colours, encoded


def grey_of(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    return images.decode(data, takes=ModelInput((height, width)), formats=FORMATS, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_every_colour_mode_shows_the_same_picture(mode: str) -> None:
    # given
    picture = Image.new("RGB", (6, 5), "white")
    picture.paste("black", (0, 0, 3, 5))

    # when
    grey = np.asarray(flatten(picture.convert("P" if mode == "PA" else mode).convert(mode), "L"))
    rgb = np.asarray(flatten(picture.convert("P" if mode == "PA" else mode).convert(mode), "RGB"))

    # then
    assert grey[:, :3].max() < 3
    assert grey[:, 3:].min() > 252
    assert np.array_equal(rgb, np.repeat(grey[..., None], 3, axis=2))


def test_lab_is_shown_in_its_colours() -> None:
    # given: sRGB's white and red, in lightness, a + 128 and b + 128
    lab = Image.new("LAB", (2, 1), (255, 128, 128))
    lab.putpixel((1, 0), (138, 209, 198))

    # when
    data = encoded(lab, "tiff")
    found = images.decode(data, takes=ModelInput((1, 2, 3)), formats=FORMATS, max_pixels=MAX_PIXELS)

    # then
    assert found[0].ravel().tolist() == pytest.approx([255, 255, 255, 255, 0, 0], abs=5)


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    data = encoded(Image.new("RGB", (8, 8), "red").convert("CMYK"), "jpeg", quality=95)

    found = images.decode(data, takes=ModelInput((8, 8, 3)), formats=FORMATS, max_pixels=MAX_PIXELS)

    assert found[4, 4].tolist() == pytest.approx([255, 0, 0], abs=6)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("name", ["png", "tiff"])
def test_16_bit_grey_is_scaled_not_clipped(name: str, dtype: str) -> None:
    # given
    values = np.array([[0, 128, 129, 257, 32768, 65278, 65407, 65535]], np.uint16)
    image = Image.fromarray(values.astype(dtype))

    # when
    found = grey_of(encoded(image, name), 1, 8)

    # then
    assert found.tolist() == [np.rint(values[0] / 257).astype(int).tolist()]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_16_bit_grey_of_either_byte_order_is_scaled(mode: str) -> None:
    image = Image.new(mode, (3, 2), 257 * 100)

    assert np.asarray(flatten(image, "L")).tolist() == [[100] * 3] * 2


def test_32_bit_grey_counts_as_16_bit() -> None:
    image = Image.fromarray(np.array([[-5, 0, 257, 65535, 70_000]], np.int32))

    found = grey_of(encoded(image, "tiff"), 1, 5)

    assert found.tolist() == [[0, 0, 1, 255, 255]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, -1.0, np.nan], [0, 128, 255, 0, 0]),
        ([0.0, 0.5, 100.2, 300.0, np.inf], [0, 0, 100, 255, 255]),
        ([np.nan, np.nan, np.nan, np.nan, -np.inf], [0, 0, 0, 0, 0]),
    ],
)
def test_float_grey_is_0_to_1_or_0_to_255(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))

    found = grey_of(encoded(image, "tiff"), 1, 5)

    assert found.tolist() == [expected]


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa"])
def test_what_is_transparent_is_white(mode: str) -> None:
    # given: black ink, drawn on nothing; half of it half transparent
    drawing = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    drawing.putpixel((1, 0), (0, 0, 0, 128))
    drawing.putpixel((2, 0), (0, 0, 0, 255))
    stored = drawing if mode == "RGBA" else drawing.convert(mode)

    # when
    grey = np.asarray(flatten(stored, "L"))

    # then
    assert grey[0].tolist() == pytest.approx([255, 127, 0], abs=1)


@pytest.mark.parametrize("name", ["png", "gif"])
def test_a_palette_s_transparent_colour_is_white(name: str) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.paste(0, (0, 0, 2, 4))

    found = grey_of(encoded(image, name, transparency=0), 4, 4)

    assert found[:, :2].min() == 255
    assert found[:, 2:].max() == 0


def test_a_palette_s_alphas_are_laid_over_white() -> None:
    image = Image.new("P", (1, 2), 1)
    image.putpalette([0, 0, 0, 0, 0, 0])
    image.putpixel((0, 0), 0)

    found = grey_of(encoded(image, "png", transparency=bytes([128, 255])), 2, 1)

    assert found[:, 0].tolist() == [127, 0]


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGB", (7, 7, 7)), ("I;16", 7), ("1", 0)])
def test_a_transparent_colour_without_palette_is_white(mode: str, colour: int | tuple[int, ...]) -> None:
    # given
    image = Image.new(mode, (2, 2), colour)

    # when
    found = grey_of(encoded(image, "png", transparency=colour), 2, 2)

    # then
    assert found.min() == 255


def test_a_picture_that_needs_nothing_is_not_copied() -> None:
    picture = colours()

    assert flatten(picture, "RGB") is picture
