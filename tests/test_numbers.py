"""JSON numbers become exactly the tensor that a model takes, or are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from errors import InvalidImage
from fronts.numbers import upload
from inputs import ModelInput


def made(value: object, dtype: str) -> list[Any]:
    found = upload(value, ModelInput((2,), dtype), label="row", truths=True)
    assert isinstance(found, np.ndarray)
    assert found.dtype == dtype
    listed: list[Any] = found.tolist()
    return listed


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([0, 2**64 - 1], "uint64"),
        ([-(2**63), 2**63 - 1], "int64"),
        ([-128, 127], "int8"),
        ([True, False], "bool"),
        ([0.5, -math.inf], "float16"),
        ([1e-300, 1e300], "float64"),
    ],
)
def test_what_a_dtype_holds_is_taken_as_it_is(value: list[object], dtype: str) -> None:
    assert made(value, dtype) == value


def test_whole_numbers_are_floats_too_and_nan_stays() -> None:
    assert made([1, 2], "float32") == [1.0, 2.0]
    assert np.isnan(made([math.nan, 1], "float32")).tolist() == [True, False]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([0, 2**64], "uint64"),
        ([-1, 2**63], "uint64"),
        ([0.5, 2**63], "uint64"),
        ([0, 2**63], "int64"),
        ([0, 256], "uint8"),
        ([0, 1.0], "uint8"),
        ([True, 1], "uint8"),
        ([True, 1.5], "float32"),
        ([1, 0], "bool"),
        ([0, 70000], "float16"),
        ([0, 1e39], "float32"),
        ([0, "1"], "float32"),
        ([0, None], "float32"),
        ([0, []], "float32"),
        ([0, 1, 2], "float32"),
    ],
)
def test_what_it_does_not_hold_is_refused(value: list[object], dtype: str) -> None:
    with pytest.raises(InvalidImage):
        made(value, dtype)
