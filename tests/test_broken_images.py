"""Whatever garbage is sent, a client gets an error of ours: nothing of Pillow's comes through."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

import images
from errors import InvalidImage, ServiceError, TooLarge, UnsupportedMediaType
from inputs import ModelInput
from tests.pictures import FORMATS, MAX_PIXELS, colours, encoded, exif

# What a file may lose at its end with all its pixels read: the checksums and IEND of a PNG (12 + 4 + 4 bytes and
# a rest of the compressed stream's own), the trailer of a GIF.
TAILS = {"png": 24, "gif": 2}
TAKES = (
    ModelInput((8, 8), fit="ink"),
    ModelInput((16, 12, 3), fit="pad"),
    ModelInput((9, 7, 1), "float32", fit="crop"),
    ModelInput((5, 30)),
)


def samples() -> dict[str, bytes]:
    """Return a small file of each kind that the decoders treat in another way."""
    picture = colours()
    deep = Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40) * 60)
    return {
        "jpeg": encoded(picture, "jpeg", exif=exif(6)),
        "jpeg, progressive": encoded(picture, "jpeg", progressive=True),
        "jpeg, cmyk": encoded(picture.convert("CMYK"), "jpeg"),
        "jpeg, multi-picture": encoded(picture, "mpo", save_all=True, append_images=[picture]),
        "png": encoded(picture, "png"),
        "png, palette": encoded(picture.quantize(16), "png", transparency=0),
        "png, alpha": encoded(picture.convert("RGBA"), "png"),
        "png, 16 bits": encoded(deep, "png"),
        "png, animated": encoded(picture, "png", save_all=True, append_images=[picture.rotate(180)]),
        "webp": encoded(picture, "webp", exif=exif(6)),
        "webp, lossless": encoded(picture, "webp", lossless=True),
        "gif": encoded(picture, "gif"),
        "gif, animated": encoded(picture, "gif", save_all=True, append_images=[picture.rotate(180)]),
        "bmp": encoded(picture, "bmp"),
        "bmp, palette": encoded(picture.quantize(16), "bmp"),
        "tiff": encoded(picture, "tiff", exif=exif(6)),
        "tiff, float": encoded(picture.convert("F"), "tiff"),
        "tiff, lzw": encoded(picture, "tiff", compression="tiff_lzw"),
        "tiff, jpeg": encoded(picture, "tiff", compression="jpeg"),
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_anywhere_is_refused(name: str) -> None:
    data = samples()[name]

    for cut in range(len(data) - TAILS.get(name, 0)):
        with pytest.raises((InvalidImage, UnsupportedMediaType)):
            images.decode(data[:cut], takes=TAKES[1], formats=FORMATS, max_pixels=MAX_PIXELS)
        with pytest.raises((InvalidImage, UnsupportedMediaType)):
            images.check(data[:cut], formats=FORMATS, max_pixels=MAX_PIXELS)


@pytest.mark.parametrize("name", ["png", "gif"])
def test_a_file_that_lost_only_its_end_marks_is_whole_or_refused(name: str) -> None:
    # given
    data = samples()[name]
    whole = images.decode(data, takes=TAKES[1], formats=FORMATS, max_pixels=MAX_PIXELS)

    # when
    for cut in range(len(data) - TAILS[name], len(data)):
        try:
            found = images.decode(data[:cut], takes=TAKES[1], formats=FORMATS, max_pixels=MAX_PIXELS)
        except InvalidImage:
            continue

        # then
        assert np.array_equal(found, whole)


def test_a_large_photo_cut_short_is_refused_at_every_scale() -> None:
    # given: read at an eighth of its size by the check, at a smaller part by the decoding
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "jpeg")

    # when
    for cut in np.linspace(700, len(data) - 1, 40).astype(int):
        # then
        with pytest.raises(InvalidImage, match="truncated"):
            images.check(data[:cut], formats=FORMATS, max_pixels=MAX_PIXELS)
        with pytest.raises(InvalidImage, match="truncated"):
            images.decode(data[:cut], takes=ModelInput((20, 20)), formats=FORMATS, max_pixels=MAX_PIXELS)


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """Return the file with a few bytes changed, lost, put in or set to telling numbers, mostly near its start."""
    found = bytearray(data)
    for _ in range(random.integers(1, 8)):
        reach = random.choice([40, 200, len(found)])
        at = int(random.integers(0, max(1, min(reach, len(found)))))
        few = int(random.integers(1, 8))
        change = random.integers(0, 4)
        if change == 0:
            found[at : at + 1] = random.bytes(1)
        elif change == 1:
            del found[at : at + few]
        elif change == 2:
            found[at:at] = random.bytes(few)
        else:
            found[at : at + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\1\0\0")[few % 4]
    return bytes(found)


@pytest.mark.parametrize("kind", samples())
def test_only_our_errors_come_out_of_mutated_files(kind: str) -> None:
    # given
    data = samples()[kind]
    random = np.random.default_rng(len(kind))

    for turn in range(300):
        takes = TAKES[turn % len(TAKES)]
        garbage = mutated(data, random)

        # when
        try:
            images.check(garbage, formats=FORMATS, max_pixels=MAX_PIXELS)
            found = images.decode(garbage, takes=takes, formats=FORMATS, max_pixels=MAX_PIXELS)
        except ServiceError as exc:
            # then
            assert exc.http_status in (413, 415, 422)  # noqa: PT017 - whichever of them
        else:
            assert found.shape == takes.shape


def test_a_tile_larger_than_the_limit_is_refused_however_small_the_image() -> None:
    # width, length, bits, compression, photometric, samples, tile width and length, offset and size of the tile
    tags = {256: 9, 257: 9, 258: 8, 259: 1, 262: 1, 277: 1, 322: 40_000, 323: 40_000, 324: 134, 325: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    tiled = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(8)

    with pytest.raises(TooLarge):
        images.decode(tiled, takes=TAKES[3], formats=FORMATS, max_pixels=MAX_PIXELS)


def tiff_of_strips(count: int, order: str, *, big: bool) -> bytes:
    """Return the header of a grey TIFF of 10 x 10 that claims so many strips, and their places."""
    kind, word = ("HHQQ", "Q") if big else ("HHII", "I")
    tags = [(256, 4, 1, 10), (257, 4, 1, 10), (273, 4, count, 400), (278, 4, 1, 1), (279, 4, count, 400)]
    magic = struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8)
    head = (b"II" if order == "<" else b"MM") + magic + struct.pack(order + ("Q" if big else "H"), len(tags))
    body = b"".join(struct.pack(order + kind, *tag) for tag in tags) + struct.pack(order + word, 0)
    return (head + body).ljust(400, b"\0") + bytes(4 * count)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_endless_strips_is_refused_before_it_is_read(order: str, *, big: bool) -> None:
    with pytest.raises(InvalidImage, match="strips"):
        images.decode(tiff_of_strips(70_000, order, big=big), takes=TAKES[3], formats=FORMATS, max_pixels=MAX_PIXELS)


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    progressive = encoded(colours(), "jpeg", progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    endless = progressive[:-2] + progressive[scan:-2] * 200 + b"\xff\xd9"

    with pytest.raises(InvalidImage):
        images.decode(endless, takes=TAKES[3], formats=FORMATS, max_pixels=MAX_PIXELS)
