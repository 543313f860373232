"""Tensors in the bodies of the Open Inference Protocol V2, as JSON or as raw bytes behind it. No I/O.

Contract: kserve/open-inference-protocol, inference_rest.md; for raw bytes Triton's extension_binary_data.md: the
JSON comes first, its length in a header of its own, then the tensors in order, little-endian and without padding.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from models.json_numbers import dump_tensor, load_json, plain

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The HTTP header that says how long the JSON is; a body without it is nothing but JSON."""

BYTES = "BYTES"
DTYPES = {
    "BOOL": "bool",
    **{f"{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
"""The numpy name of each datatype of fixed size."""

MOST_EMPTY = 65_536
"""Empty rows within one tensor: no bytes stand for them, so that only this bounds what a shape may claim."""

Side = Literal["inputs", "outputs"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor.

    values: of datatype's dtype; for BYTES of dtype object, bytes; as read from JSON of dtype object, what JSON had.
    """

    name: str
    datatype: str
    values: NDArray[Any]


def pack(
    side: Side,
    tensors: Iterable[Tensor],
    *,
    binary: bool | Collection[str],
    fields: Mapping[str, object] | None = None,
    text: bool = False,
) -> tuple[bytes, int | None]:
    """Return a body and, for raw bytes, the length of its JSON.

    binary: all as raw bytes, or those of these names. text: BYTES are UTF-8, and so in JSON; else they are base64
    there, with the parameter that says so. fields: what else the JSON has at its top.
    """
    parts = [
        _raw(tensor) if binary is True or (binary and tensor.name in binary) else _json(tensor, text=text)
        for tensor in tensors
    ]
    more = orjson.dumps(fields)[1:-1] + b"," if fields else b""
    header = b'{%b"%b":[%b]}' % (more, side.encode(), b",".join(entry for entry, _ in parts))
    return b"".join([header, *(data for _, data in parts)]), len(header) if binary else None


def unpack(side: Side, body: bytes, header_length: str | None) -> list[Tensor]:
    """Return the tensors of a body; header_length: the header as it came, None: it did not.

    Raises ValueError where names, sizes, shapes and types do not go together, or anything is left over.
    """
    header, raw = _split(body, header_length)
    try:
        entries = load_json(header)[side]
        tensors, start = [], 0
        for entry in entries:
            size = _size(entry)
            values = _from_json(entry) if size is None else _from_raw(entry, raw[start : start + size])
            tensors.append(Tensor(str(entry["name"]), str(entry["datatype"]), values))
            start += size or 0
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(f"not a body with {side}") from exc
    if start != len(raw):
        raise ValueError("the sizes of the tensors do not add up to the body")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError("two tensors of one name")
    return tensors


def by_row(tensors: Sequence[Tensor], count: int) -> list[object]:
    """Return one prediction a row: of one tensor its rows, of several an object each; BYTES become text.

    Raises ValueError where a tensor has not so many rows.
    """
    if not tensors or any(tensor.values.shape[:1] != (count,) for tensor in tensors):
        raise ValueError("not one prediction a row")
    columns = {tensor.name: _column(tensor.values) for tensor in tensors}
    if len(columns) == 1:
        return columns[tensors[0].name]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _entry(tensor: Tensor, **parameters: object) -> dict[str, object]:
    entry: dict[str, object] = {"name": tensor.name, "shape": tensor.values.shape, "datatype": tensor.datatype}
    return {**entry, "parameters": parameters} if parameters else entry


def _raw(tensor: Tensor) -> tuple[bytes, bytes | memoryview]:
    """Return the description of a tensor and its bytes, which are only copied where they are not in order."""
    if tensor.datatype == BYTES:
        data: bytes | memoryview = b"".join(_prefixed(tensor.values.flat))
    else:
        data = np.ascontiguousarray(tensor.values, np.dtype(DTYPES[tensor.datatype]).newbyteorder("<")).data
    return orjson.dumps(_entry(tensor, binary_data_size=memoryview(data).nbytes)), data


def _prefixed(items: Iterable[bytes]) -> Iterator[bytes]:
    for item in items:
        yield struct.pack("<I", len(item))
        yield item


def _json(tensor: Tensor, *, text: bool) -> tuple[bytes, bytes]:
    """Return the description of a tensor with its numbers, flat; row by row, so that no other thread waits long."""
    if tensor.datatype == BYTES and text:
        entry = _entry(tensor)
        rows = [orjson.dumps(item.decode()) for item in tensor.values.flat]
    elif tensor.datatype == BYTES:
        entry = _entry(tensor, content_type="base64")
        rows = [b'"%b"' % base64.b64encode(item) for item in tensor.values.flat]
    else:
        entry = _entry(tensor)
        rows = [dump_tensor(row.reshape(-1))[1:-1] for row in plain(tensor.values)]
    return orjson.dumps(entry)[:-1] + b',"data":[%b]}' % b",".join(rows), b""


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON and what follows it."""
    if header_length is None:
        return body, memoryview(b"")
    if not (header_length.isascii() and header_length.isdigit() and int(header_length) <= len(body)):
        raise ValueError("the length of the JSON is none, or longer than the body")
    end = int(header_length)
    return body[:end], memoryview(body)[end:]


def _size(entry: Mapping[str, Any]) -> int | None:
    """Return how many raw bytes a tensor has; None: its data is in the JSON."""
    size = (entry.get("parameters") or {}).get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError("the size of a tensor is not a number of bytes")
    return size


def _shape(entry: Mapping[str, Any], count: int) -> tuple[int, ...]:
    """Return the shape of a tensor of so many elements."""
    shape = tuple(entry["shape"])
    if any(side < 0 for side in shape) or prod(shape) != count:
        raise ValueError("the shape does not go with the data")
    if count == 0 and prod(side or 1 for side in shape) > MOST_EMPTY:
        raise ValueError("the shape claims too many empty rows")
    return shape


def _from_raw(entry: Mapping[str, Any], data: memoryview) -> NDArray[Any]:
    """Read a tensor from the bytes that are there; nothing is made by what its shape claims."""
    if entry["datatype"] == BYTES:
        items = list(_items(data))
        return _objects(items).reshape(_shape(entry, len(items)))
    dtype = np.dtype(DTYPES[entry["datatype"]])
    values = np.frombuffer(data, np.uint8 if dtype == np.bool_ else dtype.newbyteorder("<"))
    shape = _shape(entry, len(values))
    return (values != 0 if dtype == np.bool_ else values.astype(dtype)).reshape(shape)  # aligned, and ours


def _items(data: memoryview) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        if end > len(data):
            raise ValueError("the body ends within a text")
        yield bytes(data[start + 4 : end])
        start = end


def _from_json(entry: Mapping[str, Any]) -> NDArray[Any]:
    """Read a tensor from JSON, flat or nested; its numbers stay as they were written."""
    values = entry["data"]
    if not isinstance(values, list):
        raise TypeError("data is no list")
    while values and isinstance(values[0], list):
        values = [value for row in values for value in row]
    if not {type(value) for value in values} <= _json_types(entry["datatype"]):
        raise ValueError("the data is not of its type")
    return _objects(values).reshape(_shape(entry, len(values)))


def _json_types(datatype: str) -> set[type]:
    """Return what a datatype is in JSON; some servers write NaN as null."""
    if datatype == BYTES:
        return {str}
    kinds: dict[str, set[type]] = {"f": {float, int, type(None)}, "b": {bool, int}}
    return kinds.get(np.dtype(DTYPES[datatype]).kind, {int})


def _objects(items: Sequence[object]) -> NDArray[Any]:
    values = np.empty(len(items), object)
    values[:] = items
    return values


def _column(values: NDArray[Any]) -> list[object]:
    """Return the rows of a tensor as JSON-able values."""
    if values.dtype == object:
        texts: list[object] = _objects([_text(item) for item in values.flat]).reshape(values.shape).tolist()
        return texts
    return list(values)  # orjson writes them, and 0.1 of float32 as 0.1


def _text(item: object) -> object:
    """Return bytes as text, or in base64 where they are none."""
    if not isinstance(item, bytes):
        return item
    try:
        return item.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(item).decode()}
