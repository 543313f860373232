"""Predictions of any kind become output tensors that hold all they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fronts.outputs import tensors


@pytest.mark.parametrize(
    ("predictions", "expected"),
    [
        ([1, 2], {"output": ("INT64", [1, 2])}),
        ([1, 2.5], {"output": ("FP64", [1.0, 2.5])}),
        ([2**63, 2**63], {"output": ("UINT64", [2**63, 2**63])}),
        ([True, False], {"output": ("BOOL", [True, False])}),
        ([[1, 2], [3, 4]], {"output": ("INT64", [[1, 2], [3, 4]])}),
        (["a", "ü"], {"output": ("BYTES", [b"a", "ü".encode()])}),
        ([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], {"a": ("INT64", [1, 2]), "b": ("BYTES", [b"x", b"y"])}),
        ([{"a": ["x", "y"]}], {"a": ("BYTES", [[b"x", b"y"]])}),
        ([[1], [2, 3]], {"output": ("BYTES", [b"[1]", b"[2,3]"])}),
        ([1, "a"], {"output": ("BYTES", [b"1", b'"a"'])}),
        ([{"a": 1}, {"b": 1}], {"output": ("BYTES", [b'{"a":1}', b'{"b":1}'])}),
        ([{"a": {"b": 1}}], {"output": ("BYTES", [b'{"a":{"b":1}}'])}),
        ([{"a": 1}, 2], {"output": ("BYTES", [b'{"a":1}', b"2"])}),
        ([{}], {"output": ("BYTES", [b"{}"])}),
    ],
)
def test_predictions_become_tensors(predictions: list[object], expected: dict[str, tuple[str, list[object]]]) -> None:
    found = tensors([json.dumps(one, separators=(",", ":"), ensure_ascii=False).encode() for one in predictions])

    assert {one.name: (one.datatype, one.values.tolist()) for one in found} == expected


def test_null_among_numbers_is_nan() -> None:
    [found] = tensors([b"null", b"1"])

    assert found.datatype == "FP64"
    assert math.isnan(found.values[0])
    assert np.isfinite(found.values[1])
