"""Scaling is (value x scale - mean) / std for every channel, and never touches what it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from models.scaling import Scaling

CHANNELS = 3
factors = st.floats(0.001, 100)
means = st.floats(-100, 100)
batches = hnp.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(CHANNELS)))


def one_or_per_channel(number: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[float, ...]]:
    return st.just(()) | st.tuples(number) | st.tuples(*[number] * CHANNELS)


def formula(batch: NDArray[Any], scaling: Scaling) -> NDArray[np.float64]:
    """Return (value x scale - mean) / std, channel by channel, in Python's own floats' precision."""
    channels = []
    for channel in range(CHANNELS):
        mean = (scaling.mean * CHANNELS)[channel] if scaling.mean else 0.0
        std = (scaling.std * CHANNELS)[channel] if scaling.std else 1.0
        channels.append((batch[..., channel].astype(np.float64) * scaling.scale - mean) / std)
    return np.stack(channels, axis=-1)


@given(
    batch=batches,
    scaling=st.builds(
        Scaling,
        scale=factors,
        mean=one_or_per_channel(means),
        std=one_or_per_channel(factors),
        dtype=st.sampled_from([None, "float32", "float64"]),
    ),
)
def test_every_value_is_what_the_formula_says(batch: NDArray[np.uint8], scaling: Scaling) -> None:
    before = batch.copy()

    scaled = scaling.apply(batch)

    # then: float32 rounds after each step, at the size of the largest number on the way
    largest = (255 * scaling.scale + max(map(abs, scaling.mean), default=0)) / min(scaling.std, default=1)
    assert np.allclose(scaled, formula(batch, scaling), rtol=1e-6, atol=largest * 1e-6)
    assert np.array_equal(batch, before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_an_input_that_cannot_be_written_to_is_scaled(layout: Any, dtype: str) -> None:
    batch = np.ones((2, 4, 5, 3), dtype)
    batch.flags.writeable = False

    scaled = Scaling(scale=2, mean=(1,), std=(4,), layout=layout, dtype=dtype).apply(batch)

    assert np.unique(scaled).tolist() == [0.25]


def test_nchw_moves_the_channels_before_height_and_width() -> None:
    batch = np.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3)

    moved = Scaling(mean=(1, 2, 3), layout="nchw").apply(batch)

    assert moved.shape == (2, 3, 4, 5)
    assert moved.flags.c_contiguous
    assert all(np.array_equal(moved[:, channel], batch[..., channel] - channel - 1) for channel in range(3))


@pytest.mark.parametrize("shape", [(2, 6), (2, 4, 3), (2, 2, 3, 4, 3)])
def test_nchw_leaves_what_is_not_a_batch_of_images_with_channels(shape: tuple[int, ...]) -> None:
    batch = np.arange(np.prod(shape)).reshape(shape)

    assert np.array_equal(Scaling(layout="nchw").apply(batch), batch)


@pytest.mark.parametrize("came", ["bool", "uint8", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("scaling", "handed"),
    [
        (Scaling(), None),
        (Scaling(layout="nchw"), None),
        (Scaling(scale=0.5), "float32"),
        (Scaling(mean=(1,)), "float32"),
        (Scaling(std=(2,)), "float32"),
        (Scaling(dtype="float16"), "float16"),
        (Scaling(scale=0.5, dtype="float16"), "float16"),
        (Scaling(scale=0.5, dtype="float64"), "float64"),
        (Scaling(scale=2, dtype="uint8"), "uint8"),
    ],
)
def test_the_dtype_is_the_one_asked_for_else_float32_when_scaled_else_as_it_came(
    came: str, scaling: Scaling, handed: str | None
) -> None:
    batch = np.ones((1, 2, 2, 3), came)

    assert scaling.apply(batch).dtype == np.dtype(handed or came)


def test_float64_is_not_narrowed_on_its_way() -> None:
    batch = np.array([[2**40 + 1]], np.int64)

    scaled = Scaling(scale=0.5, dtype="float64").apply(batch)

    assert scaled.item() == 2**39 + 0.5


def test_image_files_pass_untouched() -> None:
    files = np.array([b"one", b"two"], dtype=object)

    assert Scaling(scale=0.5, mean=(1,), std=(2,), layout="nchw", dtype="float32").apply(files) is files
