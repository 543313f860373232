"""What TensorFlow Serving makes of a request, by its models; the quirks and texts of its REST API, without HTTP."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.model_server import Refusal

VERSIONS = {"3": "AVAILABLE", "4": "LOADING"}
SIGNATURES = ("serving_default", "other")
LABELS = {"stable": "3", "next": "4"}


@dataclass(frozen=True)
class Model:
    """What a served model takes, and what it makes of one row."""

    dtype: str
    shape: tuple[int, ...]
    predict: Callable[[Any], Any]
    inputs: tuple[str, ...] = ("input",)
    outputs: tuple[str, ...] = ("output",)
    max_batch_size: int = 64
    memory_rows: int = 64
    batch_axis: int = -1
    has_rank: bool = True
    has_metadata: bool = True


def flat(value: Any) -> Iterator[Any]:
    """Yield the numbers of nested lists."""
    if isinstance(value, list):
        for inner in value:
            yield from flat(inner)
    else:
        yield value


def total(row: Any) -> float:
    """Return the sum of a row as a float."""
    return float(sum(flat(row)))


SUM = Model("DT_FLOAT", (4, 4, 3), total)
MODELS = {
    "sum": SUM,
    "a b/c": SUM,
    "labels": Model("DT_INT32", (4, 4), lambda row: sum(flat(row)) % 10),
    "mask": Model("DT_BOOL", (4, 4), lambda row: sum(flat(row))),
    "half": Model("DT_HALF", (4, 4), total),
    "encoded": Model("DT_STRING", (), lambda image: {"bytes": len(image)}),
    "two_outputs": Model("DT_FLOAT", (2,), lambda row: {"total": total(row), "parts": row}, outputs=("total", "parts")),
    "picture_bytes": Model("DT_STRING", (), lambda image: {"b64": base64.b64encode(image[::-1]).decode()}),
    "open": Model("DT_FLOAT", (-1, -1, 3), total),
    "any_rank": Model("DT_FLOAT", (), total, has_rank=False),
    "fixed": Model("DT_FLOAT", (4, 4, 3), total, batch_axis=1, max_batch_size=1),
    "small_memory": Model("DT_FLOAT", (4, 4, 3), total, memory_rows=2),
    "kserve": Model("DT_FLOAT", (4, 4, 3), total, has_metadata=False),
    "two_inputs": Model("DT_FLOAT", (2,), total, inputs=("left", "right")),
    "nan": Model("DT_FLOAT", (2,), lambda _: [math.nan, math.inf, -math.inf]),
}


def shape_of(value: Any) -> list[int]:
    """Return the shape as the first elements have it."""
    return [len(value), *(shape_of(value[0]) if value else ())] if isinstance(value, list) else []


def fits(value: Any, dtype: str) -> bool:
    """Return whether a JSON value is of a type; booleans are no numbers, 1.0 is no integer."""
    if dtype == "DT_BOOL":
        return isinstance(value, bool)
    kinds = (int, float) if dtype == "DT_FLOAT" else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool)


def decode(value: Any) -> bytes:
    """Read one string: a lone {"b64": …}, or UTF-8."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or list(value) != ["b64"]:
        raise ValueError(f"JSON Value: {json.dumps(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error:
        raise ValueError("Unable to base64 decode") from None


def read_row(row: Any, model: Model, first: list[int]) -> Any:
    """Check one row as json_tensor.cc does.

    Raises ValueError with its text.
    """
    if model.dtype == "DT_STRING":
        return decode(row)
    for value in flat(row):
        if not fits(value, model.dtype):
            kind = "Number" if isinstance(value, (int, float)) else type(value).__name__
            name = model.dtype.removeprefix("DT_").lower()
            raise ValueError(f"JSON Value: {json.dumps(value)} Type: {kind} is not of expected type: {name}")
    expected, got = math.prod(first), sum(1 for _ in flat(row))
    if expected != got:
        raise ValueError(f"Expecting tensor size: {expected} but got: {got}")
    return row


def read_rows(body: dict[str, Any], model: Model) -> list[Any]:
    """Check `instances` or `inputs`, exactly one of which must be there, and return its rows."""
    if ("instances" in body) == ("inputs" in body):
        raise Refusal(400, "Request body must have exactly one of 'instances' and 'inputs'")
    kind = "instances" if "instances" in body else "inputs"
    rows = body[kind]
    if len(model.inputs) > 1 and not isinstance(rows[0], dict):
        raise Refusal(
            400,
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
        )
    if kind == "inputs":
        rows = named(rows, model) if isinstance(rows, dict) else rows
    else:
        rows = [named(row, model) if isinstance(row, dict) and list(row) != ["b64"] else row for row in rows]
    if not isinstance(rows, list) or not rows:
        raise Refusal(400, f"Request body must have a non-empty '{kind}' list")
    if model.dtype == "DT_HALF":
        raise Refusal(501, "Conversion of JSON Value: 0.0 to type: half")
    checked = []
    for i, row in enumerate(rows):
        try:
            checked.append(read_row(row, model, shape_of(rows[0])))
        except ValueError as exc:
            text = f"Failed to process element: {i} of '{kind}' list. Error: INVALID_ARGUMENT: {exc}"
            raise Refusal(400, text) from exc
    return checked


def named(value: dict[str, Any], model: Model) -> Any:
    """Return the value of the one input, whose name must be exactly there."""
    if list(value) != list(model.inputs):
        raise Refusal(400, f"Failed to process element: expecting the inputs {list(model.inputs)}, got {list(value)}")
    return value[model.inputs[0]]


def predict(model: Model, content: bytes) -> dict[str, Any]:
    """Answer a predict call, in columns where it came in columns."""
    try:
        body = json.loads(content)
    except ValueError as exc:
        raise Refusal(400, "JSON Parse error: Invalid value. at offset: 0") from exc
    signature = body.get("signature_name", "serving_default")
    if signature not in SIGNATURES:
        raise Refusal(400, f'Serving signature name: "{signature}" not found in signature def')
    rows = read_rows(body, model)
    if len(rows) > model.max_batch_size:
        text = f"Task size {len(rows)} is larger than maximum input batch size {model.max_batch_size}"
        raise Refusal(400, text)
    if len(rows) > model.memory_rows:
        raise Refusal(429, f"OOM when allocating tensor with shape{[len(rows), *model.shape]} and type float")
    fits = all(size in (-1, got) for size, got in zip(model.shape, shape_of(rows[0]), strict=False))
    if model.shape and not (fits and len(shape_of(rows[0])) == len(model.shape)):
        raise Refusal(400, f"input must have the shape {list(model.shape)}, got {shape_of(rows[0])}")
    predictions = [model.predict(row) for row in rows]
    if "instances" in body:
        return {"predictions": predictions}
    if len(model.outputs) == 1:
        return {"outputs": predictions}
    return {"outputs": {name: [row[name] for row in predictions] for name in model.outputs}}


def metadata(name: str, model: Model) -> dict[str, object]:
    """Describe a model, with the doubled `signature_def` and sizes as text."""
    dims = [{"size": str(size), "name": ""} for size in (model.batch_axis, *model.shape)] if model.has_rank else []
    shape = {"dim": dims, "unknown_rank": not model.has_rank}
    tensor = {"dtype": model.dtype, "tensor_shape": shape, "name": "x:0"}
    signature = {
        "inputs": dict.fromkeys(model.inputs, tensor),
        "outputs": {name: {"dtype": "DT_FLOAT", "name": "y:0"} for name in model.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": "3"},
        "metadata": {"signature_def": {"signature_def": dict.fromkeys(SIGNATURES, signature)}},
    }
