"""What decoding is estimated to take is no less than what it takes, as the system counts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.pictures import encoded, exif
from tests.stack import ROOT

SIDE = 1600
MEASURE = """
import sys
from pathlib import Path
import images
from inputs import ModelInput
from memory import give_back_large_blocks

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def decode(data, reserve):
    if takes is None:
        images.check(data, formats=formats, max_pixels=10**8, reserve=reserve)
    else:
        images.decode(data, takes=takes, formats=formats, max_pixels=10**8, reserve=reserve)

give_back_large_blocks()
images.load_formats()
formats = ("jpeg", "png", "webp", "gif", "bmp", "tiff")
kinds = {"check": None, "grey": ModelInput((64, 64), fit="ink"), "rgb": ModelInput((300, 300, 3), "float32")}
takes = kinds[sys.argv[2]]
decode(Path(sys.argv[3]).read_bytes(), lambda _: None)  # what is loaded only once
data, said = Path(sys.argv[1]).read_bytes(), []
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
decode(data, said.append)
print(memory("VmHWM") - before, *said)
"""


def photo() -> Image.Image:
    ramp = Image.linear_gradient("L").resize((SIDE, SIDE))
    return Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))


def files() -> dict[str, tuple[Image.Image, str, dict[str, object]]]:
    image = photo()
    deep = image.convert("I").convert("I;16")
    return {
        "png": (image, "png", {"exif": exif(6)}),
        "png, transparent": (image.convert("RGBA"), "png", {"exif": exif(6)}),
        "png, palette": (image.quantize(16), "png", {"transparency": 1}),
        "png, 16 bits": (deep, "png", {}),
        "jpeg": (image, "jpeg", {"exif": exif(6)}),
        "jpeg, progressive": (image, "jpeg", {"progressive": True, "subsampling": 0}),
        "jpeg, progressive cmyk": (image.convert("CMYK"), "jpeg", {"progressive": True}),
        "webp": (image, "webp", {"exif": exif(6)}),
        "webp, lossless": (image.convert("RGBA"), "webp", {"lossless": True, "method": 0, "quality": 0}),
        "gif": (image.quantize(16), "gif", {"transparency": 0}),
        "bmp": (image, "bmp", {}),
        "tiff": (image, "tiff", {"compression": "tiff_lzw", "exif": exif(6), "tiffinfo": {278: SIDE}}),
        "tiff, float": (image.convert("F"), "tiff", {"compression": "tiff_lzw", "exif": exif(6)}),
    }


def measured(folder: Path, name: str, how: str) -> tuple[int, int]:
    """Return what a process took to decode a file, and what it said it would."""
    image, kind, options = files()[name]
    (folder / "file").write_bytes(encoded(image, kind, **options))
    options.pop("tiffinfo", None)
    (folder / "small").write_bytes(encoded(image.resize((64, 64)), kind, **options))
    command = [sys.executable, "-c", MEASURE, str(folder / "file"), how, str(folder / "small")]
    found = subprocess.run(command, check=True, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60)
    took, said = map(int, found.stdout.split())
    return took, said


@pytest.mark.parametrize("name", ["png, transparent", "jpeg, progressive"])
def test_what_is_said_of_usual_images_is_no_less_than_what_they_take(tmp_path: Path, name: str) -> None:
    took, said = measured(tmp_path, name, "rgb")

    assert took <= said <= 3 * took + 10 * 1024 * 1024


@pytest.mark.long
@pytest.mark.parametrize("how", ["rgb", "grey", "check"])
@pytest.mark.parametrize("name", files())
def test_what_is_said_of_any_image_is_no_less_than_what_it_takes(tmp_path: Path, name: str, how: str) -> None:
    took, said = measured(tmp_path, name, how)

    assert took <= said
