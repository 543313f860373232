"""What a client of the Open Inference Protocol wants back, and the answer that has it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from answers import JSON
from asgi import Answer
from errors import BadRequest
from fronts import encodings, outputs
from models.tensors import HEADER_LENGTH, pack

COMPRESSED_BYTES = 1024
"""From here on an answer is compressed for those who accept it: below, nothing is saved."""

_UNSERVED = ("classification", "shared_memory_region")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client wants back. names: None: all outputs. raw: the names of those it wants as raw bytes."""

    fields: Mapping[str, object]
    names: Sequence[str] | None = None
    raw: frozenset[str] = frozenset()
    all_raw: bool = False


def read_wanted(document: Mapping[str, Any], fields: Mapping[str, object]) -> Wanted:
    """Read what a call wants back. fields: what the answer has at its top, to which `id` comes.

    Raises ValueError, KeyError, TypeError or AttributeError where it cannot be read.
    """
    if "id" in document:
        fields = {**fields, "id": str(document["id"])}
    raw_by_default = bool((document.get("parameters") or {}).get("binary_data_output"))
    entries = document.get("outputs")
    if not entries:
        return Wanted(fields, all_raw=raw_by_default)
    asked = {str(entry["name"]): entry.get("parameters") or {} for entry in entries}
    for parameters in asked.values():
        for name in _UNSERVED:
            if name in parameters:
                raise ValueError(f"{name} is not served")
    raw = [name for name, parameters in asked.items() if parameters.get("binary_data", raw_by_default)]
    return Wanted(fields, tuple(asked), frozenset(raw))


def write(wanted: Wanted, predictions: Sequence[bytes], *, accept_encoding: str) -> Answer:
    """Return the answer to a call: JSON, or JSON and raw bytes.

    Raises BadRequest where an output is wanted that is not there.
    """
    found = outputs.tensors(predictions)
    if wanted.names is not None:
        by_name = {tensor.name: tensor for tensor in found}
        missing = [name for name in wanted.names if name not in by_name]
        if missing:
            raise BadRequest(f"there is no output {missing[0][:80]}, but {', '.join(by_name)}")
        found = [by_name[name] for name in wanted.names]
    raw = wanted.raw & {tensor.name for tensor in found}
    body, length = pack("outputs", found, binary=wanted.all_raw or raw, fields=wanted.fields, text=True)
    body, encoding = encodings.pack(body, accept_encoding if len(body) >= COMPRESSED_BYTES else "")
    answer = Answer(200, body, JSON if length is None else ((b"content-type", b"application/octet-stream"),))
    if length is not None:
        answer.add(HEADER_LENGTH.lower().encode(), str(length))
    answer.add(b"vary", "Accept-Encoding")
    if encoding:
        answer.add(b"content-encoding", encoding)
    return answer
