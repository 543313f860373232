"""Predictions, JSON of any kind → the output tensors of the Open Inference Protocol. No I/O.

Where each is an object of the same keys, each key is an output; else all are one, `output`. Numbers and lists of equal
shape become BOOL, INT64, UINT64 or FP64, null among numbers NaN, texts BYTES. What fits none of this is `output`,
BYTES, each the prediction's JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from models.tensors import BYTES, Tensor

OUTPUT = "output"
_DATATYPES = {"b": "BOOL", "i": "INT64", "u": "UINT64", "f": "FP64"}


def tensors(predictions: Sequence[bytes]) -> list[Tensor]:
    """Return the outputs of one request, each with one row a prediction."""
    rows = [orjson.loads(prediction) for prediction in predictions]
    keys = rows[0].keys() if isinstance(rows[0], dict) else ()
    if keys and all(isinstance(row, dict) and row.keys() == keys for row in rows):
        columns = [(key, _values([row[key] for row in rows])) for key in keys]
    else:
        columns = [(OUTPUT, _values(rows))]
    found = [_tensor(name, values) for name, values in columns if values is not None]
    return found if len(found) == len(columns) else [_tensor(OUTPUT, _objects(predictions))]


def _values(rows: list[Any]) -> NDArray[Any] | None:
    """Return a column as an array; None where it is none."""
    try:
        found = np.asarray(rows)
        if found.dtype.kind == "O":
            return np.asarray(rows, np.float64)  # null becomes NaN
        return _texts(rows) if found.dtype.kind == "U" else found
    except (ValueError, TypeError, OverflowError):  # ragged, or an object within
        return None


def _texts(rows: list[Any]) -> NDArray[Any] | None:
    """Return texts as bytes; None where there is anything else among them, which numpy makes a text."""
    found = np.asarray(rows, object)
    if not all(isinstance(item, str) for item in found.flat):
        return None
    return _objects([item.encode() for item in found.flat]).reshape(found.shape)


def _objects(items: Sequence[bytes]) -> NDArray[Any]:
    found = np.empty(len(items), object)
    found[:] = items
    return found


def _tensor(name: str, values: NDArray[Any]) -> Tensor:
    return Tensor(name, _DATATYPES.get(values.dtype.kind, BYTES), values)
