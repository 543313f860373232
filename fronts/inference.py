"""The bodies of the Open Inference Protocol's infer calls, as a server reads and answers them. No I/O."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from bodies import Upload
from errors import BadRequest, InvalidImage
from fronts import numbers
from fronts.pieces import load
from fronts.replies import Wanted, read_wanted
from inputs import ModelInput
from models.tensors import BYTES, DTYPES, HEADER_LENGTH, unpack

RAW = "0"
"""The length of a JSON that is not there: the body is one tensor, or one image file, and nothing else."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a call before its body is read.

    header_length: of the JSON, as the client's header says; None: there is only JSON.
    """

    model: str
    version: str
    input_name: str
    header_length: str | None
    max_rows: int


def datatype(takes: ModelInput) -> str:
    """Return the protocol's name of what a model takes."""
    return BYTES if takes.accepts == "encoded" else _NAMES[np.dtype(takes.dtype).name]


def weigh(call: Call, body: bytes, takes: ModelInput) -> int:
    """Look how much JSON there is before it is parsed; return the bytes that reading the body will take beside it.

    Raises TooLarge.
    """
    if call.header_length == RAW:
        return 0
    header = _json(call, body)
    return numbers.weigh(header, takes, call.max_rows) + 2 * (len(body) - len(header))


def read(call: Call, body: bytes, takes: ModelInput) -> tuple[list[Upload], Wanted]:
    """Read the body of an infer call.

    Raises BadRequest, InvalidImage, TooLarge.
    """
    fields = {"model_name": call.model, "model_version": call.version}
    if call.header_length == RAW:
        return [_raw_upload(body, takes)], Wanted(fields, all_raw=True)
    header = _json(call, body)
    try:
        document = load(header, takes, flat=True)
        [entry] = document["inputs"]
        wanted = read_wanted(document, fields)
        return _rows(call, body, entry, takes, truths=numbers.has_truths(header)), wanted
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise BadRequest(f"the body is no call of a model with one input: {_reason(exc)}") from exc


def _json(call: Call, body: bytes) -> bytes:
    length = call.header_length
    if length is None:
        return body
    if not (length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= len(body)):
        raise BadRequest(f"{HEADER_LENGTH} must be the length of the JSON, which is in the body")
    return body[: int(length)]


def _reason(exc: Exception) -> str:
    return f"{exc} is missing" if isinstance(exc, KeyError) else str(exc)[:200] or type(exc).__name__


def _rows(call: Call, body: bytes, entry: Mapping[str, Any], takes: ModelInput, *, truths: bool) -> list[Upload]:
    """Return the one input row by row."""
    name, sent, shape = str(entry["name"]), str(entry["datatype"]), tuple(entry["shape"])
    if name != call.input_name:
        raise ValueError(f"the one input is {call.input_name}, not {name[:80]}")
    if any(type(side) is not int for side in shape) or not shape:
        raise ValueError("shape must be a list of whole numbers, the first of them the number of images")
    numbers.require_count(shape[0], call.max_rows)
    _require_fit(sent, shape, takes)
    if (entry.get("parameters") or {}).get("binary_data_size") is not None:
        [tensor] = unpack("inputs", body, call.header_length)
        return list(tensor.values.reshape(-1) if sent == BYTES else tensor.values)
    if "data" not in entry:
        raise ValueError(f"the input {name} has no data")
    parts = _parts(entry["data"], shape)
    if sent == BYTES:
        return [_file(part, f"{name}[{place}]") for place, part in enumerate(parts)]
    return [_numbers(part, takes, f"{name}[{place}]", truths=truths) for place, part in enumerate(parts)]


def _require_fit(sent: str, shape: tuple[int, ...], takes: ModelInput) -> None:
    expected = datatype(takes)
    if sent == BYTES and prod(shape[1:]) == 1 and (takes.takes_images):
        return
    if sent != expected or shape[1:] != takes.shape:
        wanted = "[n, 1]" if expected == BYTES else [-1, *takes.shape]
        raise InvalidImage(f"the input is {sent[:20]} {list(shape)}; this model takes {expected} {wanted}")


def _parts(data: object, shape: tuple[int, ...]) -> list[Any]:
    """Return the data of each row, which comes nested or flat."""
    if not isinstance(data, list) or not data:
        raise ValueError("data must be a list")
    if isinstance(data[0], list | np.ndarray):
        parts = data
    else:
        size = prod(shape[1:])
        if len(data) != shape[0] * size:
            raise ValueError(f"there are {len(data)} elements in data, not those of the shape")
        parts = [data[start : start + size] for start in range(0, len(data), size)]
    if len(parts) != shape[0]:
        raise ValueError(f"there are {len(parts)} rows in data, not {shape[0]}")
    return parts


def _numbers(part: Any, takes: ModelInput, label: str, *, truths: bool) -> Upload:
    numbers.require_numbers(part, takes, label=label, truths=truths)
    found = numbers.as_array(part, takes, label)
    if found.size != prod(takes.shape):
        raise ValueError(f"{label} has {found.size} elements, not those of the shape")
    return numbers.cast(found.reshape(takes.shape), takes, label)


def _file(part: object, label: str) -> bytes:
    """Return an image file of its base64: it is no text that JSON could hold."""
    text = part[0] if isinstance(part, list) and len(part) == 1 else part
    if not isinstance(text, str):
        raise TypeError(f"{label} is no text: send image files in base64, or as raw bytes behind the JSON")
    return binascii.a2b_base64(text, strict_mode=True)


def _raw_upload(body: bytes, takes: ModelInput) -> Upload:
    if takes.accepts == "tensor" and len(body) == takes.size_bytes:
        flat = np.frombuffer(body, np.dtype(takes.dtype).newbyteorder("<"))
        return flat.reshape(takes.shape)
    if not body:
        raise BadRequest("there is no image in the body")
    return body
