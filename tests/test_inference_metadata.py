"""Metadata of the Open Inference Protocol are read with care: they come from servers of many kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from errors import StartError
from models.choice import Declared
from models.inference_metadata import WireInput, declared_input, takes_binary


def read(*inputs: object, sizes: tuple[int, ...] = ()) -> tuple[Declared, WireInput] | None:
    return declared_input(json.dumps({"inputs": inputs}).encode(), model="m", name=None, sizes=sizes)


@pytest.mark.parametrize(
    ("answer", "listed"),
    [
        ({"extensions": ["statistics", "binary_tensor_data"]}, True),
        ({"extensions": ["statistics"]}, False),
        ({"extensions": "binary_tensor_data"}, False),
        ({"extensions": None}, False),
        ({}, False),
    ],
)
def test_raw_bytes_are_taken_where_the_list_of_extensions_has_them(answer: dict[str, Any], *, listed: bool) -> None:
    assert takes_binary(json.dumps(answer).encode()) is listed


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>"])
def test_a_body_that_tells_of_no_server_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        takes_binary(body)


@pytest.mark.parametrize("side", [-1, -2])
def test_an_open_axis_is_any_negative_size(side: int) -> None:
    found = read({"name": "x", "datatype": "UINT8", "shape": [side, side, 3]})

    assert found == (Declared("x", (-1, 3), "uint8"), WireInput("x", "UINT8"))


def test_a_text_for_each_row_may_have_axes_of_one() -> None:
    found = read({"name": "x", "datatype": "BYTES", "shape": [-1, 1, -1]})

    assert found == (Declared("x", (1, -1), "bytes"), WireInput("x", "BYTES", (1, 1)))


def test_the_first_axis_may_be_the_only_size_of_batch() -> None:
    entry = {"name": "x", "datatype": "UINT8", "shape": [8, 3]}

    assert read(entry, sizes=(8,))
    with pytest.raises(StartError, match="ALLOWED_BATCH_SIZES=8"):
        read(entry)


@pytest.mark.parametrize("shape", [[], [3]])
def test_a_model_without_an_axis_for_batches_is_refused(shape: list[int]) -> None:
    with pytest.raises(StartError, match="the first axis must be open"):
        read({"name": "x", "datatype": "UINT8", "shape": shape})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"inputs":3}',
        b'{"inputs":[3]}',
        b'{"inputs":[{"name":"x","datatype":"UINT8"}]}',
        b'{"inputs":[{"name":"x","datatype":"UINT8","shape":"3"}]}',
        b'{"inputs":[{"name":"x","datatype":"UINT8","shape":["wide"]}]}',
        b'{"inputs":[{"name":"x","datatype":"UINT8","shape":[null]}]}',
    ],
)
def test_a_body_that_tells_of_no_model_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        declared_input(body, model="m", name=None)
