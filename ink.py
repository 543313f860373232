"""One drawn character → light ink on black that fills the frame, as sets of handwriting have it.

A drawing on a screen, a scan and a photo of paper come out alike: the ground's brightness is subtracted, strokes are
told from noise and brought to one width, and what is left is cropped and averaged down. The width and the frame are
those of the 8x8 digits of scikit-learn (NIST's preprocessing: 32x32 bitmaps, counted in blocks of 4x4).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageFilter

WORK_SIDE = 160  # strokes of a character that fills a tenth of the side are still pixels wide
_GROUND_SIDE = 80  # of the grid that the ground is fitted to
_GLYPH_SIDE = 56  # of the bitmap in which strokes are brought to one width
_STROKE = 9.0  # that width: what makes the mean brightness of drawings that of the handwriting set
_LEAST_CONTRAST = 12.0  # grey levels; below it is paper, not ink
_NOISE = 4.0  # standard deviations of the ground that count as noise
_SPECK = 0.1  # of the largest part's area: smaller parts are dust
_CELLS = 48  # parts less than a cell of this grid apart belong together

_CROSS = [1, 3, 4, 5, 7]  # of a 3x3 window

Floats = NDArray[np.float64]
Bits = NDArray[np.bool_]


def fit(grey: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring one character to (width, height); an image of exactly that size is returned as it is.

    grey: mode "L", light on dark or dark on light. Without any ink the result is black.
    """
    if grey.size == size:
        return grey
    strength = _strength(_shrink(grey))
    strokes = _without_specks(_strokes(strength))
    if not strokes.any():
        return Image.new("L", size)
    glyph = _even_strokes(_glyph(strength, strokes))
    return _framed(glyph, size)


def _shrink(grey: Image.Image) -> Floats:
    """Average a large image down, and noise with it."""
    scale = WORK_SIDE / max(grey.size)
    if scale < 1:
        smaller = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
        grey = grey.resize(smaller, Image.Resampling.BOX)
    if scale < 2:  # in a tiny image a stroke is as thin as the noise
        grey = grey.filter(ImageFilter.GaussianBlur(0.7))
    return np.asarray(grey, np.float64)


def _strength(values: Floats) -> Floats:
    """Return how far each pixel is from the ground on the ink's side, 0 within the ground's noise."""
    residual = values - _ground(values)
    if (residual**3).sum() < 0:  # the far values are the ink's: it is darker than the ground
        residual = -residual
    spread = 1.4826 * float(np.median(np.abs(residual)))
    return np.where(residual > _NOISE * spread, residual, 0.0)


def _ground(values: Floats) -> Floats:
    """Fit a smooth surface to the ground: a quadric, first through the border, then through all that is close to it.

    Least squares with Cauchy weights, so that ink, far from the surface, counts for next to nothing. Some of the pixels
    tell so smooth a surface as well as all do.
    """
    height, width = values.shape
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    step = -(-max(values.shape) // _GROUND_SIDE)
    some = values[::step, ::step].ravel()
    down, across = (side.ravel() for side in np.broadcast_arrays(y[::step], x[:, ::step]))
    terms = np.stack([np.ones_like(some), across, down, across**2, across * down, down**2], axis=-1)
    border = np.maximum(np.abs(across), np.abs(down)) > 0.9
    surface = np.full_like(some, np.median(some[border]))
    for area in (border, border, border, True, True, True, True):
        distance = np.abs(some - surface)
        spread = max(1.0, 1.4826 * float(np.median(distance[border])))
        weighted = terms * (area / (1 + (distance / (2 * spread)) ** 2))[:, None]
        factors = np.linalg.lstsq(weighted.T @ terms, weighted.T @ some, rcond=None)[0]
        surface = terms @ factors
    level, by_x, by_y, by_xx, by_xy, by_yy = factors
    ground: Floats = level + by_x * x + by_xx * x**2 + y * (by_y + by_xy * x) + by_yy * y**2
    return ground


def _strokes(strength: Floats) -> Bits:
    """Tell strokes from what is left of the ground: half-way between the two means (Ridler and Calvard, 1978)."""
    threshold = strength.max() / 2
    if strength.max() < _LEAST_CONTRAST:
        return np.zeros(strength.shape, bool)
    for _ in range(16):
        above = strength > threshold
        threshold = (strength[above].mean() + strength[~above].mean()) / 2
    strokes: Bits = strength > threshold
    return strokes


def _without_specks(strokes: Bits) -> Bits:
    """Drop the parts that are far smaller than the largest one."""
    cell = -(-max(strokes.shape) // _CELLS)
    row, column = (np.arange(side) // cell for side in strokes.shape)
    cells = np.zeros((row[-1] + 1, column[-1] + 1), bool)
    cells[row[np.nonzero(strokes)[0]], column[np.nonzero(strokes)[1]]] = True
    part = _parts(cells)[row][:, column]
    areas = np.bincount(part[strokes], minlength=1)
    kept: Bits = strokes & (areas[part] >= _SPECK * areas.max())
    return kept


def _parts(cells: Bits) -> NDArray[np.int64]:
    """Give each connected part (8 neighbours) a number: the largest in it spreads over it."""
    part = np.where(cells, np.arange(1, cells.size + 1).reshape(cells.shape), 0)
    for _ in range(cells.size):
        around = np.pad(part, 1)
        rows = np.maximum(np.maximum(around[:-2], around[1:-1]), around[2:])
        spread = np.where(cells, np.maximum(np.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]), 0)
        if np.array_equal(spread, part):
            break
        part = np.append(0, spread)[spread]  # each takes the number that the cell of its number has: far in few steps
    return part


def _box(bits: Bits) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what is set."""
    rows, columns = np.nonzero(bits)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _glyph(strength: Floats, strokes: Bits) -> Bits:
    """Cut the strokes out and bring them to one height, with a margin to grow into."""
    left, top, right, bottom = _box(strokes)
    edge = strength[strokes].min()
    near = _grown(strokes, 2)
    doubled = np.where(near, np.clip(strength / edge, 0, 2), 0)[top:bottom, left:right]  # 1 is a stroke's edge
    scale = _GLYPH_SIDE / max(doubled.shape)
    size = max(1, round(doubled.shape[1] * scale)), max(1, round(doubled.shape[0] * scale))
    smooth = np.asarray(Image.fromarray(doubled.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    level = min(1.0, 0.45 * scale, float(smooth.max()))  # a line one pixel wide is fainter when resized, never gone
    return np.pad(smooth >= level, 8)


def _even_strokes(glyph: Bits) -> Bits:
    """Grow or shrink strokes to the width of the handwriting set."""
    inner = ~_grown(~glyph, 1)
    width = 2 * glyph.sum() / max(1, (glyph & ~inner).sum())  # a stroke has two edges
    steps = round(abs(_STROKE - width) / 2)
    if width < _STROKE:
        return _grown(glyph, steps)
    thinner = ~_grown(~glyph, steps)
    return thinner if thinner.any() else glyph


def _grown(bits: Bits, steps: int) -> Bits:
    """Grow what is set by so many pixels: a cross and a square in turn are nearly a circle."""
    for step in range(steps):
        around = sliding_window_view(np.pad(bits, 1), (3, 3)).reshape(*bits.shape, 9)
        bits = np.any(around if step % 2 else around[..., _CROSS], axis=2)
    return bits


def _framed(glyph: Bits, size: tuple[int, int]) -> Image.Image:
    """Centre the glyph in the frame and count its pixels in blocks."""
    left, top, right, bottom = _box(glyph)
    scale = max((right - left) / size[0], (bottom - top) / size[1])
    width, height = round(size[0] * scale), round(size[1] * scale)
    frame = Image.new("L", (max(1, width), max(1, height)))
    cut = Image.fromarray(glyph[top:bottom, left:right]).convert("L")
    frame.paste(cut, ((frame.width - cut.width) // 2, (frame.height - cut.height) // 2))
    return frame.resize(size, Image.Resampling.BOX)
