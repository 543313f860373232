"""The digits model recognises what it never saw, however it is drawn, scanned or photographed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import images
from models.digits import WEIGHTS, Digits
from tests.pictures import FORMATS, MAX_PIXELS, encoded
from tools.draw_digits import draw
from tools.train_digits import split

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def model() -> Digits:
    return Digits()


def decoded(data: bytes) -> NDArray[Any]:
    return images.decode(data, takes=Digits.takes, formats=FORMATS, max_pixels=MAX_PIXELS)


def drawing(digit: int) -> Image.Image:
    return Image.open(io.BytesIO((EXAMPLES / f"drawn-{digit}.png").read_bytes())).convert("L")


def photographed(sheet: Image.Image, random: np.random.Generator, *, ink: float, noise: float) -> bytes:
    """Return a JPEG of the sheet under uneven light.

    ink: its brightness where the paper is 1.
    noise: standard deviation of a pixel's brightness, of 255.
    """
    large = sheet.resize((sheet.width * 3, sheet.height * 3), Image.Resampling.BICUBIC)
    y, x = np.mgrid[0 : 1 : large.height * 1j, 0 : 1 : large.width * 1j]
    angle = random.uniform(0, 2 * np.pi)
    light = 170 + 60 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5))
    taken = light * (ink + (1 - ink) * np.asarray(large) / 255) + random.normal(0, noise, light.shape)
    return encoded(Image.fromarray(taken.clip(0, 255).astype(np.uint8)), "jpeg", quality=60)


def test_held_out_digits_are_recognised_through_the_whole_way(model: Digits) -> None:
    # given: scikit-learn's digits that were never trained on, as 8x8 PNGs
    _, (held_out, labels) = split()

    # when
    batch = np.stack([decoded(encoded(Image.fromarray(image), "png")) for image in held_out])
    predictions = model.predict(batch)

    # then: exactly what the model says of the arrays, and right
    assert np.array_equal(batch, held_out)
    assert predictions == model.predict(held_out)
    assert np.mean([prediction["label"] for prediction in predictions] == labels) >= 0.95


def test_held_out_digits_are_not_among_those_trained_on() -> None:
    (trained_on, _), (held_out, _) = split()

    known = {image.tobytes() for image in trained_on}

    assert len(trained_on) + len(held_out) == 1797
    assert not any(image.tobytes() in known for image in held_out)


def test_a_prediction_does_not_depend_on_its_batch(model: Digits) -> None:
    _, (held_out, _) = split()

    together = model.predict(held_out)

    assert [model.predict(image[None])[0] for image in held_out] == together
    assert model.predict(held_out[::-1]) == together[::-1]


def test_a_prediction_says_label_score_and_all_ten_scores(model: Digits) -> None:
    [prediction] = model.predict(np.zeros((1, 8, 8), np.uint8))
    scores = prediction["scores"]

    assert isinstance(scores, list)
    assert len(scores) == 10
    assert sum(scores) == pytest.approx(1, abs=0.001)
    assert prediction["score"] == max(scores) == scores[int(str(prediction["label"]))]


def test_an_empty_batch_has_no_predictions(model: Digits) -> None:
    assert model.predict(np.zeros((0, 8, 8), np.uint8)) == []


def test_the_example_seven_is_a_seven(model: Digits) -> None:
    [prediction] = model.predict(decoded((EXAMPLES / "seven.png").read_bytes())[None])

    assert prediction["label"] == 7
    assert float(str(prediction["score"])) > 0.8


def test_the_tiny_example_is_a_held_out_digit_and_recognised(model: Digits) -> None:
    # given
    _, (held_out, labels) = split()
    image = decoded((EXAMPLES / "digit-8x8.png").read_bytes())

    # when
    [found] = np.nonzero((held_out == image).all(axis=(1, 2)))[0]

    # then
    assert model.predict(image[None])[0]["label"] == labels[found]


@pytest.mark.parametrize("digit", range(10))
def test_drawings_are_recognised_dark_on_light_and_light_on_dark(model: Digits, digit: int) -> None:
    # given
    sheet = drawing(digit)
    sheets = [sheet, sheet.point(lambda value: 255 - value), sheet.resize((50, 60), Image.Resampling.BOX)]

    # when
    predictions = model.predict(np.stack([decoded(encoded(each, "png")) for each in sheets]))

    # then
    assert [prediction["label"] for prediction in predictions] == [digit] * 3


@pytest.mark.parametrize(("ink", "noise"), [(0.3, 8), (0.75, 5), (0.3, 25)], ids=["photo", "faint", "noisy"])
@pytest.mark.parametrize("digit", range(10))
def test_photos_of_drawings_are_recognised(model: Digits, digit: int, ink: float, noise: float) -> None:
    photo = photographed(drawing(digit), np.random.default_rng(digit), ink=ink, noise=noise)

    [prediction] = model.predict(decoded(photo)[None])

    assert prediction["label"] == digit


def test_a_drawing_on_a_transparent_ground_is_recognised(model: Digits) -> None:
    layer = Image.new("RGBA", (200, 240))
    layer.putalpha(drawing(4).point(lambda value: 255 - value))

    [prediction] = model.predict(decoded(encoded(layer, "png"))[None])

    assert prediction["label"] == 4


def test_a_small_drawing_in_the_corner_of_a_dusty_sheet_is_recognised(model: Digits) -> None:
    # given
    sheet = Image.new("L", (700, 700), 255)
    sheet.paste(drawing(3), (480, 20))
    for x, y in np.random.default_rng(1).integers(0, 690, (12, 2)).tolist():
        sheet.paste(0, (x, y, x + 4, y + 4))

    # when
    [prediction] = model.predict(decoded(encoded(sheet, "png"))[None])

    # then
    assert prediction["label"] == 3


@pytest.mark.parametrize("digit", range(10))
def test_a_hairline_that_fills_a_large_sheet_is_recognised(model: Digits, digit: int) -> None:
    # given: after reduction to the size worked on, the line is thinner than a pixel
    sheet = draw(digit, np.random.default_rng(4), wobble=0.3, width=1).resize((800, 960))

    # when
    [prediction] = model.predict(decoded(encoded(sheet, "png"))[None])

    # then
    assert prediction["label"] == digit


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blank_sheet_is_black_and_predicted_all_the_same(model: Digits, grey: int) -> None:
    image = decoded(encoded(Image.new("L", (200, 240), grey), "png"))

    assert not image.any()
    assert len(model.predict(image[None])) == 1


def test_paper_without_ink_is_black(model: Digits) -> None:
    photo = photographed(Image.new("L", (200, 240), 255), np.random.default_rng(1), ink=0.3, noise=8)

    image = decoded(photo)

    assert not image.any()
    assert len(model.predict(image[None])) == 1


def test_drawn_ink_looks_like_the_handwriting_set() -> None:
    # given: light strokes on black that reach from the first row to the last
    fitted = np.stack([decoded((EXAMPLES / f"drawn-{digit}.png").read_bytes()) for digit in range(10)])

    # then
    assert (fitted[:, [0, -1]].max(axis=2) > 60).all()
    assert 0.2 < fitted.mean() / 255 < 0.4


def test_the_weights_are_small_and_hold_no_pickle() -> None:
    assert WEIGHTS.stat().st_size < 100_000
    with np.load(WEIGHTS, allow_pickle=False) as stored:
        assert all(stored[name].dtype.kind == "f" for name in stored)
