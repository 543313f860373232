"""What servers of the Open Inference Protocol V2 make of a request, by their models and styles; without HTTP."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.model_server import Refusal

Array = NDArray[Any]
DTYPES = {
    "BOOL": "?",
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
OUT_OF_MEMORY = "CUDA error: out of memory"


@dataclass(frozen=True)
class Style:
    """How a server differs from the others.

    unready: the status of a model that is not there yet. is_kserve: each call needs an `id`, and there are no versions.
    """

    extensions: tuple[str, ...] | None
    binary: bool
    nested: bool
    has_bodies: bool
    unready: int
    is_kserve: bool = False


STYLES = {
    "triton": Style(("classification", "binary_tensor_data"), binary=True, nested=False, has_bodies=False, unready=400),
    "kserve": Style(
        ("model_repository_extension",), binary=True, nested=True, has_bodies=True, unready=503, is_kserve=True
    ),
    "odd": Style(("binary_tensor_data",), binary=True, nested=False, has_bodies=True, unready=503),
    "bare": Style(None, binary=False, nested=False, has_bodies=True, unready=503),
}


@dataclass(frozen=True)
class Model:
    """What a model takes, without the batch axis, and what it makes of a batch; outputs come as (datatype, values)."""

    datatype: str
    row: tuple[int, ...]
    predict: Callable[[Array], dict[str, tuple[str, Array]]]
    inputs: tuple[str, ...] = ("x",)
    optional: bool = False
    batch_axis: int = -1
    max_batch_size: int = 64
    memory_rows: int = 64
    metadata: str = "whole"


def one(datatype: str, compute: Callable[[Array], Any]) -> Callable[[Array], dict[str, tuple[str, Array]]]:
    """Make a model of one output."""
    return lambda batch: {"y": (datatype, np.asarray(compute(batch)))}


def total(batch: Array) -> Array:
    """Return the sum of each row."""
    sums: Array = batch.reshape(len(batch), -1).astype(np.float64).sum(axis=1)
    return sums


def texts(items: Sequence[bytes]) -> Array:
    """Return an array of texts."""
    values = np.empty(len(items), object)
    values[:] = items
    return values


SUM = Model("FP32", (4, 4, 3), one("FP32", total))
PAIR_OUT = Model("FP32", (2,), lambda batch: {"total": ("FP32", total(batch)), "parts": ("FP32", batch)})
LENGTHS = one("INT32", lambda batch: [len(item) for item in batch.flat])
MODELS = {
    "sum": SUM,
    "a b/c": SUM,
    "labels": Model("INT32", (4, 4), one("INT64", lambda batch: total(batch).astype(int) % 10)),
    "mask": Model("BOOL", (4, 4), one("INT32", total)),
    "half": Model("FP16", (4, 4), one("FP16", total)),
    "bfloat": Model("BF16", (4, 4), one("FP32", total)),
    "encoded": Model("BYTES", (), LENGTHS),
    "encoded-column": Model("BYTES", (1,), LENGTHS),
    "encoded-pairs": Model("BYTES", (2,), LENGTHS),
    "backwards": Model("BYTES", (), one("BYTES", lambda batch: texts([item[::-1] for item in batch.flat]))),
    "two_outputs": PAIR_OUT,
    "two_inputs": Model("FP32", (2,), one("FP32", total), inputs=("left", "right")),
    "optional": Model("FP32", (2,), one("FP32", total), inputs=("left", "right"), optional=True),
    "nan": Model("FP32", (2,), one("FP32", lambda batch: [[np.nan, np.inf, -np.inf]] * len(batch))),
    "empty": Model("FP32", (2,), one("FP32", lambda batch: np.zeros((len(batch), 0, 4)))),
    "open": Model("FP32", (-1, -1, 3), one("FP32", total)),
    "fixed": Model("FP32", (4, 4, 3), one("FP32", total), batch_axis=1, max_batch_size=1),
    "fixed-4": Model("FP32", (4, 4, 3), one("FP32", total), batch_axis=4, max_batch_size=4),
    "small_memory": Model("FP32", (4, 4, 3), one("FP32", total), memory_rows=2),
    "untold": Model("FP32", (4, 4, 3), one("FP32", total), metadata="missing"),
    "undeclared": Model("FP32", (4, 4, 3), one("FP32", total), metadata="empty"),
    "odd": Model("FP32", (4, 4, 3), one("FP32", total), metadata="odd"),
    "late": Model("FP32", (4, 4, 3), one("FP32", total), metadata="late"),
    "photos": Model("UINT8", (224, 224, 3), one("FP32", lambda batch: batch[:, ::22, 0, 0])),
    **{f"echo-{datatype}": Model(datatype, (2,), one(datatype, lambda batch: batch)) for datatype in DTYPES},
}


def metadata(name: str, model: Model) -> dict[str, object]:
    """Describe a model."""
    if model.metadata == "missing":
        raise Refusal(404, "Not Found")
    if model.metadata == "late":
        raise Refusal(503, "the model is unloaded")
    shape = [model.batch_axis, *model.row]
    inputs = [{"name": one, "datatype": model.datatype, "shape": shape} for one in model.inputs]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1]}]
    declared = {"whole": inputs, "empty": [], "odd": 3}[model.metadata]
    return {"name": name, "versions": ["3"], "platform": "test", "inputs": declared, "outputs": outputs}


def read_texts(data: bytes) -> Array:
    """Read texts that are each behind their length."""
    items, start = [], 0
    while start < len(data):
        (length,) = struct.unpack_from("<I", data, start)
        items.append(data[start + 4 : start + 4 + length])
        start += 4 + length
    return texts(items)


def read_inputs(header: bytes, raw: bytes) -> dict[str, tuple[str, Array]]:
    """Read the tensors of a request as strictly as Triton does."""
    found = {}
    for tensor in json.loads(header)["inputs"]:
        datatype, shape = tensor["datatype"], tensor["shape"]
        size = tensor.get("parameters", {}).get("binary_data_size")
        data, raw = raw[: size or 0], raw[size or 0 :]
        if size is None and datatype == "FP16":
            raise Refusal(400, "FP16 is not supported in JSON")
        if datatype == "BYTES":
            values = read_texts(data) if size is not None else texts(read_json_texts(tensor))
        else:
            dtype = np.dtype(DTYPES[datatype])
            values = np.frombuffer(data, dtype) if size is not None else read_numbers(tensor, dtype)
        if values.size != np.prod(shape):
            raise Refusal(400, f"unexpected total size {values.size} for input '{tensor['name']}', expecting {shape}")
        found[tensor["name"]] = (datatype, values.reshape(shape))
    if raw:
        raise Refusal(400, f"unexpected additional input data: {len(raw)} bytes")
    return found


def read_numbers(tensor: dict[str, Any], dtype: np.dtype[Any]) -> Array:
    """Read flat numbers, none of which may be of another kind."""
    kinds = {"b": (bool,), "f": (float, int)}.get(dtype.kind, (int,))
    if not all(type(value) in kinds for value in tensor["data"]):
        raise Refusal(400, f"Unable to parse 'data': attempt to access JSON {tensor['data'][0]} as another type")
    return np.array(tensor["data"], dtype)


def read_json_texts(tensor: dict[str, Any]) -> list[bytes]:
    """Read texts, in base64 where the parameters say so."""
    coded = tensor.get("parameters", {}).get("content_type") == "base64"
    return [base64.b64decode(item, validate=True) if coded else item.encode() for item in tensor["data"]]


def predict(model: Model, header: bytes, raw: bytes) -> dict[str, tuple[str, Array]]:
    """Answer an infer call."""
    inputs = read_inputs(header, raw)
    needed = model.inputs[:1] if model.optional else model.inputs
    if not set(needed) <= set(inputs) <= set(model.inputs):
        raise Refusal(400, f"expected {len(model.inputs)} inputs but got {len(inputs)} inputs")
    datatype, batch = inputs[model.inputs[0]]
    if datatype != model.datatype:
        raise Refusal(400, f"inference input data-type is '{datatype}', model expects '{model.datatype}'")
    if len(batch) > model.max_batch_size:
        raise Refusal(400, f"inference request batch-size must be <= {model.max_batch_size}")
    if len(batch) > model.memory_rows:
        raise Refusal(500, OUT_OF_MEMORY)
    if model.batch_axis not in (-1, len(batch)):
        raise Refusal(400, f"unexpected shape, expecting [{model.batch_axis}]")
    if len(batch.shape) != len(model.row) + 1 or any(
        side not in (-1, got) for side, got in zip(model.row, batch.shape[1:], strict=True)
    ):
        raise Refusal(400, f"unexpected shape for input, expecting {[-1, *model.row]}, got {list(batch.shape)}")
    return model.predict(batch)


def write(outputs: dict[str, tuple[str, Array]], style: Style, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    """Return the JSON of an answer and the raw bytes behind it."""
    entries, raw = [], b""
    for name, (datatype, values) in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if datatype == "BYTES":
            data = b"".join(struct.pack("<I", len(item)) + item for item in values.flat)
            items = [item.decode(errors="replace") for item in values.flat]
        else:
            exact = values.astype(DTYPES[datatype])
            data, items = exact.tobytes(), (exact if style.nested else exact.reshape(-1)).tolist()
        entry |= {"parameters": {"binary_data_size": len(data)}} if binary else {"data": items}
        raw += data if binary else b""
        entries.append(entry)
    return {"model_name": "m", "model_version": "3", "outputs": entries}, raw
