"""Bodies of the Open Inference Protocol: what is written is what the protocol says, what is read is checked."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tensors import MOST_EMPTY, Tensor, by_row, pack, unpack
from tests.open_inference_client import files, plain

FOUR = np.array([[1, 2], [3, 4]])


def body(entry: dict[str, Any], raw: bytes = b"") -> tuple[bytes, str | None]:
    header = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [2]} | entry]}).encode()
    return header + raw, str(len(header)) if "parameters" in entry else None


def read(entry: dict[str, Any], raw: bytes = b"", count: int = 2) -> Any:
    return plain(by_row(unpack("outputs", *body(entry, raw)), count))


def sized(size: object) -> dict[str, Any]:
    return {"parameters": {"binary_data_size": size}}


# What is written


def test_raw_bytes_stand_behind_the_json_in_order_little_endian_and_without_padding() -> None:
    numbers = Tensor("a", "UINT32", FOUR.astype(">u4"))
    flags = Tensor("b", "BOOL", np.array([True, False, True]))

    content, length = pack("inputs", [numbers, flags], binary=True, fields={"id": "1"})

    assert content[length:] == b"\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0" + b"\1\0\1"
    assert json.loads(content[:length]) == {
        "id": "1",
        "inputs": [
            {"name": "a", "shape": [2, 2], "datatype": "UINT32", "parameters": {"binary_data_size": 16}},
            {"name": "b", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}},
        ],
    }


def test_each_text_stands_behind_its_length() -> None:
    content, length = pack("inputs", [Tensor("a", "BYTES", files(b"ab", b""))], binary=True)

    assert content[length:] == b"\2\0\0\0ab\0\0\0\0"


def test_without_raw_bytes_numbers_are_flat_and_row_major() -> None:
    content, length = pack("inputs", [Tensor("a", "INT8", np.asfortranarray(FOUR))], binary=False)

    assert length is None
    assert json.loads(content) == {"inputs": [{"name": "a", "shape": [2, 2], "datatype": "INT8", "data": [1, 2, 3, 4]}]}


def test_without_raw_bytes_files_are_base64_and_say_so() -> None:
    content, _ = pack("inputs", [Tensor("a", "BYTES", files(b"\xff\xd8", b""))], binary=False)

    [entry] = json.loads(content)["inputs"]
    assert entry["data"] == ["/9g=", ""]
    assert entry["parameters"] == {"content_type": "base64"}


def test_a_large_batch_is_copied_once() -> None:
    values = np.zeros((8, 100_000), np.uint8)

    tracemalloc.start()
    content, length = pack("inputs", [Tensor("a", "UINT8", values)], binary=True)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(content) == (length or 0) + values.nbytes
    assert peak_bytes < 1.1 * values.nbytes


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint64", "float32", "float64"])
def test_what_is_written_is_read_again(dtype: str, binary: bool) -> None:  # noqa: FBT001
    values = np.array([[[0, 1]], [[1, 0]]], dtype)
    datatype = {"bool": "BOOL", "float32": "FP32", "float64": "FP64"}.get(dtype, dtype.upper())

    content, length = pack("outputs", [Tensor("y", datatype, values)], binary=binary)
    [tensor] = unpack("outputs", content, None if length is None else str(length))

    assert (tensor.name, tensor.datatype) == ("y", datatype)
    assert tensor.values.tolist() == values.tolist()


# What is read


@pytest.mark.parametrize("data", [[1, 2.5, 3, 4], [[1, 2.5], [3, 4]], [[[1]], [[2.5]], [[3]], [[4]]]])
def test_json_data_may_be_flat_or_nested(data: list[Any]) -> None:
    assert read({"shape": [2, 2], "data": data}) == [[1, 2.5], [3, 4]]


def test_numbers_of_json_stay_as_they_were_written() -> None:
    largest = 2**64 - 1

    assert read({"datatype": "UINT64", "data": [largest, 1]}) == [largest, 1]
    assert read({"datatype": "FP32", "data": [0.1, 1e300]}) == [0.1, 1e300]


def test_tokens_and_nulls_for_what_is_not_finite_are_read() -> None:
    content = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[4],"data":[NaN,Infinity,-Infinity,null]}]}'

    rows: Any = by_row(unpack("outputs", content, None), 4)

    assert math.isnan(rows[0])
    assert rows[1:] == [math.inf, -math.inf, None]


def test_raw_numbers_are_read_wherever_they_begin() -> None:
    values = np.array([0.1, -2.5], "<f4")

    for padding in range(4):
        entry = {"name": "y" * (padding + 1), **sized(8)}

        assert read(entry, values.tobytes()) == [0.1, -2.5]


@pytest.mark.parametrize(
    ("datatype", "raw", "expected"),
    [
        ("BOOL", b"\0\2", [False, True]),
        ("FP16", b"\0\x3c\0\xc0", [1.0, -2.0]),
        ("INT8", b"\xff\1", [-1, 1]),
        ("BYTES", b"\2\0\0\0\xc3\xa9\0\0\0\0", ["é", ""]),
        ("BYTES", b"\1\0\0\0\xff\1\0\0\0a", [{"b64": "/w=="}, "a"]),
    ],
)
def test_raw_bytes_of_each_kind_become_what_json_can_hold(datatype: str, raw: bytes, expected: list[Any]) -> None:
    assert read({"datatype": datatype, **sized(len(raw))}, raw) == expected


def test_several_tensors_become_an_object_a_row_raw_or_not() -> None:
    entries = [
        {"name": "a", "datatype": "UINT8", "shape": [2, 2], **sized(4)},
        {"name": "b", "datatype": "BYTES", "shape": [2], "data": ["x", "y"]},
        {"name": "c", "datatype": "UINT8", "shape": [2], **sized(2)},
    ]
    header = orjson.dumps({"outputs": entries})

    rows = by_row(unpack("outputs", header + b"\1\2\3\4\5\6", str(len(header))), 2)

    assert plain(rows) == [{"a": [1, 2], "b": "x", "c": 5}, {"a": [3, 4], "b": "y", "c": 6}]


def test_a_row_may_be_empty() -> None:
    assert read({"shape": [2, 0, 4], **sized(0)}) == [[], []]
    assert read({"shape": [2, 0], "data": []}) == [[], []]


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [2], "data": [1]},
        {"shape": [3], "data": [1, 2, 3]},
        {"shape": [], "data": [1]},
        {"shape": [2, -1], "data": [1, 2]},
        {"shape": [2.0], "data": [1, 2]},
        {"shape": [True, 2], "data": [1, 2]},
        {"shape": "2", "data": [1, 2]},
        {"shape": None, "data": [1, 2]},
        {"shape": [2, *[1] * 100], "data": [1, 2]},
        {"shape": [2, 10**30], "data": [1, 2]},
        {"shape": [2, MOST_EMPTY, 0], "data": []},
        {"shape": [2, 0, 10**30], "data": []},
        {"shape": [2], "data": {"a": 1}},
        {"shape": [2], "data": "ab"},
        {"shape": [2], "data": [[1], 2]},
        {"shape": [2], "data": [1, [2]]},
        {"shape": [2], "data": ["1", "2"]},
        {"shape": [2], "data": [True, False]},
        {"shape": [2], "data": [{}, {}]},
        {"shape": [2], "datatype": "INT8", "data": [1, 2.5]},
        {"shape": [2], "datatype": "INT8", "data": [1, None]},
        {"shape": [2], "datatype": "BYTES", "data": [1, 2]},
        {"shape": [2], "datatype": "BF16", "data": [1, 2]},
        {"shape": [2], "datatype": ["FP32"], "data": [1, 2]},
        {"shape": [2]},
    ],
    ids=str,
)
def test_json_whose_data_type_and_shape_do_not_go_together_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(entry)


@pytest.mark.parametrize(
    ("entry", "raw"),
    [
        (sized(8), b"1234567"),
        (sized(8), b"123456789"),
        (sized(7), b"1234567"),
        (sized(12), b"123456781234"),
        (sized(0), b""),
        (sized(-8), b"12345678"),
        (sized(size=True), b"1"),
        (sized("8"), b"12345678"),
        (sized(8.0), b"12345678"),
        (sized(10**30), b"12345678"),
        ({"shape": [2, 10**9], **sized(8)}, b"12345678"),
        ({"datatype": "BF16", **sized(4)}, b"1234"),
        ({"datatype": "BYTES", **sized(4)}, b"\0\0\0\0"),
        ({"datatype": "BYTES", **sized(3)}, b"\0\0\0"),
        ({"datatype": "BYTES", **sized(9)}, b"\0\0\0\0\2\0\0\0a"),
        ({"datatype": "BYTES", **sized(8)}, b"\xff\xff\xff\xff\0\0\0\0"),
        ({"parameters": 8}, b"12345678"),
    ],
    ids=str,
)
def test_raw_bytes_whose_sizes_do_not_add_up_are_refused(entry: dict[str, Any], raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read(entry, raw)


def test_a_negative_size_cannot_make_two_tensors_of_the_same_bytes() -> None:
    sizes = {"a": 8, "b": -4, "c": 4}
    entries = [{"name": k, "datatype": "FP32", "shape": [max(0, v // 4)], **sized(v)} for k, v in sizes.items()]
    header = orjson.dumps({"outputs": entries})

    with pytest.raises(ValueError, match="not a number of bytes"):
        unpack("outputs", header + b"12345678", str(len(header)))


@pytest.mark.parametrize("length", ["", "x", "-1", "1.0", "+1", "1, 1", "1_0", "³", "99", "9" * 5000, "0"])
def test_a_length_of_the_json_that_is_none_or_too_long_is_refused(length: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack("outputs", b'{"outputs":[]}', length)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"1", b"{}", b'{"outputs":1}', b'{"outputs":[1]}', b"[" * 100_000, b'{"a":NaN', b"\xff"],
)
def test_json_that_is_no_answer_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack("outputs", content, None)


def test_two_tensors_of_one_name_and_no_tensor_at_all_are_refused() -> None:
    entry = {"name": "y", "datatype": "FP32", "shape": [1], "data": [1]}

    with pytest.raises(ValueError, match="one name"):
        unpack("outputs", json.dumps({"outputs": [entry, entry]}).encode(), None)
    with pytest.raises(ValueError, match="one prediction a row"):
        by_row(unpack("outputs", b'{"outputs":[]}', None), 1)


@given(st.data())
def test_a_damaged_body_is_refused_or_has_its_rows(data: st.DataObject) -> None:
    tensors = [Tensor("a", "FP32", FOUR), Tensor("b", "BYTES", files(b"ab", b"c"))]
    content, length = pack("outputs", tensors, binary=data.draw(st.booleans()))
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(len(damaged) - 4, len(damaged)))]

    try:
        rows = by_row(unpack("outputs", bytes(damaged), None if length is None else str(length)), 2)
    except ValueError:
        return

    assert len(rows) == 2
    orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
