"""The JSON of TensorFlow Serving's predict calls: a batch → the request, the answer → one prediction a row. No I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import orjson
from numpy.typing import NDArray

from models.json_numbers import dump_tensor, load_json, plain


def encode(batch: NDArray[Any], *, signature: str, input_name: str | None, columnar: bool) -> bytes:
    """Return the body of a predict call.

    batch: shape (n, ...) of numbers, or (n,) of dtype object, bytes: those become {"b64": ...}.
    input_name: named in each row, or once in columns; None: the rows are bare, as a model with one input takes them.
    """
    rows = _rows(batch)
    label = b"" if input_name is None else orjson.dumps(input_name) + b":"
    if label and not columnar:
        rows = (b"{%b%b}" % (label, row) for row in rows)
    values = b"[%b]" % b",".join(rows)
    if columnar:
        values = b"{%b%b}" % (label, values) if label else values
    return b'{"signature_name":%b,"%b":%b}' % (
        orjson.dumps(signature),
        b"inputs" if columnar else b"instances",
        values,
    )


def decode(body: bytes, count: int) -> list[object]:
    """Return one prediction a row of an answer in rows or in columns; of several outputs an object each.

    Raises ValueError where the body is no such answer for so many rows.
    """
    try:
        answer = load_json(body)
        predictions = answer["predictions"] if "predictions" in answer else _by_row(answer["outputs"], count)
    except (KeyError, TypeError, RecursionError) as exc:
        raise ValueError("not an answer to a predict call") from exc
    if not isinstance(predictions, list) or len(predictions) != count:
        raise ValueError("not one prediction a row")
    return predictions


def _rows(batch: NDArray[Any]) -> Iterator[bytes]:
    if batch.dtype == object:
        return (b'{"b64":"%b"}' % base64.b64encode(image) for image in batch)
    return map(dump_tensor, plain(batch))


def _by_row(outputs: object, count: int) -> object:
    """Turn columns, {output: [value of each row]}, into rows; a single output is its column alone."""
    if not isinstance(outputs, dict):
        return outputs
    if any(not isinstance(column, list) or len(column) != count for column in outputs.values()):
        raise ValueError("a column is not one value a row")
    return [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
