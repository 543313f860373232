"""Tensors as JSON text, and JSON that holds numbers which are not finite. No I/O."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray


def load_json(body: bytes) -> Any:
    """Read JSON, and the NaN and Infinity of some servers, which orjson refuses; only those pay for the slow reader."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" in body or b"Infinity" in body:
            return json.loads(body)
        raise


def plain(batch: NDArray[Any]) -> NDArray[Any]:
    """Bring it to what orjson encodes: C order, native bytes, at most 64 bits; no copy where it is so."""
    too_wide = batch.dtype.itemsize > np.dtype(np.float64).itemsize
    return np.ascontiguousarray(batch, np.float64 if too_wide else batch.dtype.newbyteorder("="))


def dump_tensor(row: NDArray[Any]) -> bytes:
    """Encode a plain tensor; integers stay integers, what is not finite gets the tokens that most servers read."""
    text = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    if row.dtype.kind != "f" or np.isfinite(row).all():
        return text
    lost = (json.dumps(float(value)).encode() for value in row[~np.isfinite(row)])
    return re.sub(b"null", lambda _: next(lost), text)  # orjson writes each of them as null, in the same order
