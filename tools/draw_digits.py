"""Draw digits as a hand would: to train on, and for `examples/` (`python -m tools.draw_digits`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float64]
EXAMPLES = Path(__file__).parents[1] / "examples"
SIZE = (200, 240)

# Each way to write a digit: its strokes, each a list of x,y that a smooth line runs through; 0..100, y down.
SHAPES: dict[int, tuple[str, ...]] = {
    0: (
        "50,2 20,20 12,52 24,86 50,98 78,84 88,50 78,16 50,2",
        "62,6 34,8 16,36 18,72 42,97 70,88 86,56 80,22 58,4 44,8",
    ),
    1: (
        "52,2 51,50 50,98",
        "28,24 42,12 54,2 53,2 52,50 52,98",
        "30,22 56,2 56,2 54,98 54,98|30,98 78,98",
        "62,2 40,98",
    ),
    2: (
        "14,24 26,6 52,2 78,14 78,36 54,64 14,97 14,97 50,96 88,97",
        "18,20 44,2 76,14 74,42 44,74 20,92 30,80 44,90 66,97 88,90",
        "16,12 50,2 82,20 70,48 16,96 16,96 86,96",
    ),
    3: (
        "16,14 44,2 76,12 76,34 44,48 44,48 80,58 84,82 52,98 14,86",
        "18,4 78,4 78,4 46,42 46,42 80,54 82,84 50,98 16,88",
        "20,10 52,2 78,18 66,40 40,46 70,52 86,74 64,96 18,92",
    ),
    4: (
        "62,2 38,32 12,66 12,66 50,66 90,66|66,38 65,70 64,98",
        "22,4 18,30 20,50 20,50 50,52 82,48|78,4 76,50 74,98",
        "66,98 66,50 66,2 66,2 38,36 10,70 10,70 50,70 92,70",
        "30,4 14,58 14,58 84,56|64,26 58,98",
    ),
    5: (
        "80,4 24,4 24,4 20,44 20,44 50,36 80,52 82,80 54,98 14,90",
        "26,4 22,46 22,46 54,38 82,56 78,86 48,98 14,88|26,4 82,3",
        "78,2 50,6 28,6 20,40 44,38 76,48 80,76 58,96 18,94",
    ),
    6: (
        "70,2 40,20 18,56 22,86 48,98 78,86 78,62 52,52 24,66",
        "60,2 30,30 16,68 34,96 66,96 84,74 66,54 36,58 20,76",
        "54,2 24,40 18,76 44,98 74,90 76,66 50,58 24,72",
        "80,14 60,2 32,12 18,50 24,86 50,98 78,84 78,54 54,40 26,52 20,66",
        "76,4 44,4 22,28 16,66 32,94 62,98 84,78 74,50 48,42 22,56",
    ),
    7: (
        "12,6 50,5 88,4 88,4 60,46 40,98",
        "12,6 86,4 86,4 62,48 46,98|30,52 82,50",
        "14,18 16,5 88,4 88,4 64,40 52,98",
        "14,8 50,4 84,8 78,30 52,62 44,98|34,48 80,46",
    ),
    8: (
        "76,16 50,2 24,16 34,40 66,58 80,80 50,98 20,80 36,56 66,38 76,16",
        "50,48 24,32 28,10 54,2 76,14 72,34 50,48 22,66 22,88 50,98 78,88 80,66 50,48",
        "80,10 50,2 26,14 34,38 62,56 76,78 54,98 26,90 28,68 58,44 80,12",
    ),
    9: (
        "78,26 60,4 30,8 18,32 36,52 66,46 78,24 78,24 76,60 66,98",
        "80,20 50,2 22,16 24,42 52,50 76,34 80,14 80,54 64,90 28,96",
        "76,12 40,4 20,28 40,50 70,36 80,8 80,8 72,98",
        "20,86 40,98 68,88 82,50 76,14 50,2 22,16 22,46 46,60 74,48 80,34",
        "24,96 56,96 78,72 84,34 68,6 38,2 16,22 26,50 52,58 78,44",
    ),
}


def draw(digit: int, random: np.random.Generator, *, wobble: float = 1.0, width: int | None = None) -> Image.Image:
    """Draw a digit dark on light, `SIZE` pixels, somewhere on the sheet.

    wobble: how far it strays from the shape; 1 is everyday handwriting.
    """
    strokes = str(random.choice(SHAPES[digit])).split("|")
    place = _placing(random, wobble)
    pen = width or int(random.integers(3, 20))
    sheet = Image.new("L", (SIZE[0] * 2, SIZE[1] * 2), 255)
    pencil = ImageDraw.Draw(sheet)
    for stroke in strokes:
        points = np.array([pair.split(",") for pair in stroke.split()], float)
        points += random.normal(0, 2.5 * wobble, points.shape)
        line = [tuple(point) for point in (_smooth(points) @ place[:, :2].T + place[:, 2]) * 2]
        pencil.line(line, fill=0, width=2 * pen, joint="curve")
        for x, y in (line[0], line[-1]):
            pencil.ellipse((x - pen, y - pen, x + pen, y + pen), fill=0)
    return sheet.resize(SIZE, Image.Resampling.BOX)


def _placing(random: np.random.Generator, wobble: float) -> Floats:
    """Return where a digit stands: size, slant, turn and offset as a 2x3 matrix."""
    turn, slant = random.normal(0, 0.08 * wobble), random.normal(-0.1, 0.15 * wobble)
    height = random.uniform(0.9, 1.9)
    width = height * random.uniform(0.5, 0.95)
    shape = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shape = shape @ np.array([[1, slant], [0, 1]]) @ np.diag([width, height])
    offset = np.array(SIZE) / 2 + random.normal(0, 4, 2) - shape @ [50, 50]
    return np.column_stack([shape, offset])


def _smooth(points: Floats) -> Floats:
    """Run a line through the points (Catmull and Rom, 1974); a point given twice is a corner."""
    ends = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, 10)[:, None]
    parts = [
        b + t * (c - a) / 2 + t**2 * (2 * a - 5 * b + 4 * c - d) / 2 + t**3 * (3 * b - a - 3 * c + d) / 2
        for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False)
    ]
    return np.concatenate(parts)


def main() -> None:
    """Write one drawing of each digit, and a larger seven in grey."""
    for digit in range(10):
        sheet = draw(digit, np.random.default_rng(digit + 10), width=8)
        sheet.convert("1", dither=Image.Dither.NONE).save(EXAMPLES / f"drawn-{digit}.png", optimize=True)
    draw(7, np.random.default_rng(70), width=11).quantize(16).save(EXAMPLES / "seven.png", optimize=True)


if __name__ == "__main__":
    main()
