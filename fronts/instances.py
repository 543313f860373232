"""The JSON of TensorFlow Serving's predict calls, as a server reads and answers it. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from answers import JSON
from asgi import Answer
from errors import BadRequest
from fronts.numbers import has_truths, require_count, upload
from fronts.pieces import load
from fronts.whole import Asked
from inputs import ModelInput


def read(body: bytes, takes: ModelInput, *, input_name: str, signature: str, max_rows: int) -> Asked:
    """Read the body of a predict call, in rows (`instances`) or in columns (`inputs`).

    Raises BadRequest, InvalidImage, TooLarge.
    """
    document = _document(body, takes)
    asked = document.get("signature_name", signature)
    if asked not in (signature, ""):
        raise BadRequest(f'Serving signature name: "{str(asked)[:80]}" not found in signature def')
    if ("instances" in document) == ("inputs" in document):
        raise BadRequest("the JSON must have either instances, a list of rows, or inputs, a tensor of them")
    by_row = "instances" in document
    values = _rows(document["instances"], input_name) if by_row else _column(document["inputs"], input_name)
    require_count(len(values), max_rows)
    label, truths = "instances" if by_row else "inputs", has_truths(body)
    rows = [upload(value, takes, label=f"{label}[{place}]", truths=truths) for place, value in enumerate(values)]
    return Asked(rows, _in_rows if by_row else _in_columns)


def _document(body: bytes, takes: ModelInput) -> dict[str, Any]:
    try:
        document = load(body, takes)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"JSON Parse error: {getattr(exc, 'msg', 'nested too deeply')}") from exc
    if not isinstance(document, dict):
        raise BadRequest("the JSON must be an object with instances or inputs")
    return document


def _rows(instances: object, input_name: str) -> list[object]:
    """Return the values of rows, which are all bare or all named."""
    if not isinstance(instances, list) or not instances:
        raise BadRequest("instances must be a list of one row or more")
    if not _is_named(instances[0]):
        return instances
    return [_named(row, input_name, f"instances[{place}]") for place, row in enumerate(instances)]


def _column(inputs: object, input_name: str) -> list[object]:
    values = _named(inputs, input_name, "inputs") if _is_named(inputs) else inputs
    if not isinstance(values, list) or not values:
        raise BadRequest("inputs must be a tensor of one row or more, or an object with that by its name")
    return values


def _is_named(value: object) -> bool:
    """Return whether it names inputs; {"b64": ...} alone is a value."""
    return isinstance(value, dict) and value.keys() != {"b64"}


def _named(value: object, input_name: str, label: str) -> object:
    if not isinstance(value, dict) or value.keys() != {input_name}:
        raise BadRequest(f"{label} must have the one input {input_name}, and no other")
    return value[input_name]


def _in_rows(predictions: Sequence[bytes]) -> Answer:
    return Answer(200, b'{"predictions":[%b]}' % b",".join(predictions), JSON)


def _in_columns(predictions: Sequence[bytes]) -> Answer:
    """Return the predictions as one column, or one a key where all are objects of the same keys."""
    rows = [orjson.loads(prediction) for prediction in predictions]
    keys = rows[0].keys() if isinstance(rows[0], dict) else ()
    if keys and all(isinstance(row, dict) and row.keys() == keys for row in rows):
        return Answer(200, orjson.dumps({"outputs": {key: [row[key] for row in rows] for key in keys}}), JSON)
    return Answer(200, b'{"outputs":[%b]}' % b",".join(predictions), JSON)
