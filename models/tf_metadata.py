"""What TensorFlow Serving says of a model: which versions are there, and what a signature takes. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from errors import StartError
from models.choice import ANY_SIZE, BINARY, Declared, numpy_dtype, one_image

STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")
DTYPES = {
    "DT_BOOL": "bool",
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    **{f"DT_{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)},
    "DT_STRING": BINARY,
}
"""What REST can carry; half and bfloat16 it cannot."""


def states(body: bytes) -> dict[str, str]:
    """Return the state of each version; KServe, which speaks the same protocol, knows only of readiness.

    Raises ValueError where the body tells of none.
    """
    try:
        answer = orjson.loads(body)
        if "model_version_status" not in answer:
            return {"default": "AVAILABLE" if bool(answer["ready"]) else "LOADING"}
        found = {str(int(entry["version"])): str(entry["state"]) for entry in answer["model_version_status"]}
    except (KeyError, TypeError) as exc:
        raise ValueError("not a model's status") from exc
    return {version: state if state in STATES else "UNKNOWN" for version, state in found.items()}


def declared_input(
    body: bytes, *, model: str, signature: str, input_name: str | None, sizes: Sequence[int] = ()
) -> Declared:
    """Return the one input of a signature; sizes: the only sizes of batch that are sent, empty: any.

    Raises ValueError where the body is no metadata, StartError where no batch of images can be what it takes.
    """
    try:
        signatures = orjson.loads(body)["metadata"]["signature_def"]["signature_def"]
        if signature not in signatures:
            raise StartError(f"the model {model} has no signature {signature}, but {', '.join(sorted(signatures))}")
        inputs = {
            str(name): (str(tensor["dtype"]), _dims(tensor["tensor_shape"]))
            for name, tensor in signatures[signature]["inputs"].items()
        }
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("not a model's metadata") from exc
    if len(inputs) != 1 or input_name not in (None, *inputs):
        found = ", ".join(f"{name} ({dtype})" for name, (dtype, _) in sorted(inputs.items()))
        wanted = "one input" if input_name is None else f"the one input {input_name}"
        raise StartError(
            f"the signature {signature} of the model {model} must take {wanted}, it takes {found or 'none'}"
        )
    [(name, (dtype, dims))] = inputs.items()
    return Declared(name, one_image(dims, model, sizes), numpy_dtype(dtype, DTYPES, model=model))


def _dims(shape: dict[str, Any]) -> tuple[int, ...] | None:
    """Read a shape, whose sizes are text; None: not even the rank is known."""
    if shape.get("unknown_rank"):
        return None
    return tuple(max(ANY_SIZE, int(dim["size"])) for dim in shape.get("dim", ()))
