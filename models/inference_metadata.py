"""What a server of the Open Inference Protocol says of itself and of a model's input. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import orjson

from errors import StartError
from models.choice import ANY_SIZE, BINARY, Declared, numpy_dtype, one_image
from models.tensors import BYTES, DTYPES

BINARY_EXTENSION = "binary_tensor_data"


@dataclass(frozen=True, slots=True)
class WireInput:
    """The input as it is sent.

    row: shape of one row where the declaration, not the tensor, says it: encoded images, one to a row.
    """

    name: str
    datatype: str
    row: tuple[int, ...] = ()

    @classmethod
    def of(cls, name: str, dtype: str) -> Self:
        """Make it of a numpy dtype, or "bytes"."""
        datatypes = {own: datatype for datatype, own in DTYPES.items()} | {BINARY: BYTES}
        if dtype not in datatypes:
            raise StartError(f"MICROBATCH_MODEL_DTYPE={dtype}: the Open Inference Protocol has no such numbers")
        return cls(name, datatypes[dtype])


def takes_binary(body: bytes) -> bool:
    """Return whether a server lists the extension for raw bytes.

    Raises ValueError where the body tells of no server.
    """
    answer = orjson.loads(body)
    if not isinstance(answer, dict):
        raise ValueError("not a server's metadata")  # noqa: TRY004  # it is what was received
    extensions = answer.get("extensions")
    return isinstance(extensions, list) and BINARY_EXTENSION in extensions


def declared_input(
    body: bytes, *, model: str, name: str | None, sizes: Sequence[int] = ()
) -> tuple[Declared, WireInput] | None:
    """Return the one input of a model; None: it declares none.

    name: which of several, the others being optional; None: there must be one. sizes: the only sizes of batch that are
    sent, empty: any. Raises ValueError where the body is no metadata, StartError where no batch of images can be what
    it takes.
    """
    try:
        inputs = {str(one["name"]): (str(one["datatype"]), _dims(one["shape"])) for one in _inputs(body)}
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("not a model's metadata") from exc
    if not inputs:
        return None
    wanted = name or next(iter(inputs))
    if wanted not in inputs or (name is None and len(inputs) > 1):
        found = ", ".join(f"{one} ({datatype} {list(dims)})" for one, (datatype, dims) in inputs.items())
        asked = "one input, or MICROBATCH_INFERENCE_INPUT must name it" if name is None else f"an input {name}"
        raise StartError(f"the model {model} must take {asked}; it takes {found}")
    datatype, dims = inputs[wanted]
    row = one_image(dims, model, sizes) or ()
    declared = Declared(wanted, row, numpy_dtype(datatype, DTYPES | {BYTES: BINARY}, model=model))
    if declared.dtype != BINARY:
        return declared, WireInput(wanted, datatype)
    if any(side not in (1, ANY_SIZE) for side in row):
        raise StartError(f"the model {model} takes {list(dims)} texts, but one image file a row is sent")
    return declared, WireInput(wanted, datatype, (1,) * len(row))


def _inputs(body: bytes) -> list[dict[str, object]]:
    inputs = orjson.loads(body)["inputs"]
    if not isinstance(inputs, list):
        raise TypeError("no list of inputs")
    return inputs


def _dims(shape: object) -> tuple[int, ...]:
    """Read a shape; any negative size is open."""
    if not isinstance(shape, list):
        raise TypeError("no list of sizes")
    return tuple(max(ANY_SIZE, int(side)) for side in shape)
