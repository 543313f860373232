"""JSON values → what the model takes: one tensor of exactly its shape and dtype, or one image file, a row."""

from __future__ import annotations

import binascii
from math import inf, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bodies import Upload
from errors import BadRequest, InvalidImage, TooLarge
from inputs import ModelInput

NUMBER_BYTES = 48
"""What parsing holds of a number at most: a float or an integer, the place that points to it, and the parser's own."""
LIST_BYTES = 88
"""The same of a list."""
LONG_BYTES = 256 * 1024
"""From here on a tensor's JSON is read row by row, see pieces.py."""
_IN_PIECES = 16
"""What that takes of a number."""
_WHOLE_BYTES = 64 * 1024 * 1024
"""What parsing long JSON in one piece may take in any case."""
SPARE = 256
"""Commas and brackets of a request beyond those of its rows; the rest of its JSON has some, too."""
_WHOLE = "iu"


def weigh(body: bytes, takes: ModelInput, max_rows: int) -> int:
    """Look how much JSON there is before it is parsed; return the bytes that this will take beside the body.

    Millions of empty lists cost seconds and a gigabyte; base64 holds neither commas nor brackets.
    Raises TooLarge where there are more numbers or lists than the most rows of the model's shape have.
    """
    commas, lists = body.count(b","), body.count(b"[") + body.count(b"{")
    shape = takes.shape if takes.accepts == "tensor" else ()
    numbers_a_row = max(prod(shape), 1)
    lists_a_row = sum(prod(shape[:axis]) for axis in range(len(shape))) + 1
    if commas > max_rows * (numbers_a_row + 8) + SPARE or lists > max_rows * (lists_a_row + 8) + SPARE:
        raise TooLarge(f"there is more in the body than {max_rows} images; send them in several requests")
    return int(min(_whole(body, commas, lists), _allowed(body, commas, takes)))


def require_affordable(body: bytes, takes: ModelInput) -> None:
    """Look whether long JSON that cannot be read row by row takes no more than `weigh` says.

    Raises TooLarge.
    """
    commas, lists = body.count(b","), body.count(b"[") + body.count(b"{")
    if _whole(body, commas, lists) > _allowed(body, commas, takes):
        raise TooLarge("there is too much JSON in one piece; send it in several requests, or as raw bytes")


def goes_in_pieces(body: bytes, takes: ModelInput) -> bool:
    """Return whether JSON is read row by row; an array may not hold what a uint64 or true and false are."""
    return len(body) >= LONG_BYTES and takes.accepts == "tensor" and takes.dtype not in ("uint64", "bool")


def _whole(body: bytes, commas: int, lists: int) -> int:
    return NUMBER_BYTES * commas + LIST_BYTES * lists + _text(body)


def _allowed(body: bytes, commas: int, takes: ModelInput) -> float:
    if not goes_in_pieces(body, takes):
        return inf
    row = NUMBER_BYTES * min(commas, prod(takes.shape))
    return max(_IN_PIECES * commas + row + 3 * len(body), _WHOLE_BYTES, _text(body))


def _text(body: bytes) -> int:
    """Return what the texts of JSON and their images take: beyond ASCII a character may take four bytes."""
    return len(body) * (5 if b"\\u" in body or not body.isascii() else 2)


def require_count(rows: int, max_rows: int) -> None:
    """Look whether so many rows may be in one request.

    Raises BadRequest, TooLarge.
    """
    if rows < 1:
        raise BadRequest("there is no image in the body")
    if rows > max_rows:
        raise TooLarge(f"more than {max_rows} images in one request; send them in several")


def has_truths(body: bytes) -> bool:
    """Return whether a JSON text may hold true or false, which numpy would take for numbers among numbers."""
    return b"true" in body or b"false" in body


def upload(value: object, takes: ModelInput, *, label: str, truths: bool) -> Upload:
    """Return what one row is: an image file of {"b64": ...}, else a tensor.

    label: what messages call the row. truths: true and false may be in it.
    Raises BadRequest, InvalidImage.
    """
    if isinstance(value, dict):
        return image_file(value, label)
    if takes.accepts == "encoded" or isinstance(value, str):
        raise InvalidImage(f'{label}: send an image file as {{"b64": "<the file in base64>"}}')
    require_numbers(value, takes, label=label, truths=truths)
    return as_tensor(value, takes, label)


def require_numbers(value: object, takes: ModelInput, *, label: str, truths: bool) -> None:
    """Look whether there is no true or false among numbers. truths: there may be.

    Raises InvalidImage.
    """
    if truths and np.dtype(takes.dtype).kind != "b" and _holds_truths(value):
        raise InvalidImage(f"{label} holds true or false; this model takes {takes.dtype}")


def image_file(value: dict[Any, Any], label: str) -> bytes:
    """Return the bytes of {"b64": ...}.

    Raises BadRequest.
    """
    text = value.get("b64") if len(value) == 1 else None
    if not isinstance(text, str):
        raise BadRequest(f'{label} is an object, but not {{"b64": "<an image file in base64>"}}')
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as exc:  # also what is not ASCII
        raise BadRequest(f"{label}.b64 is not base64") from exc


def as_tensor(value: object, takes: ModelInput, label: str) -> NDArray[Any]:
    """Return nested lists of numbers as the tensor that the model takes.

    Raises InvalidImage where shape or type are others, or a number does not fit.
    """
    found = as_array(value, takes, label)
    if found.shape != takes.shape:
        raise InvalidImage(f"{label} has the shape {found.shape}; this model takes {takes.dtype} {takes.shape}")
    return cast(found, takes, label)


def as_array(value: object, takes: ModelInput, label: str) -> NDArray[Any]:
    """Return nested lists as an array of what they hold.

    Raises InvalidImage where they are ragged.
    """
    try:
        found = np.asarray(value)
        if takes.dtype == "uint64" and found.dtype.kind == "f":  # as numpy takes whole numbers below and above 2 ** 63
            exact = np.asarray(value, object)
            return exact.astype(takes.dtype) if all(type(number) is int for number in exact.flat) else found
    except (ValueError, OverflowError) as exc:
        raise InvalidImage(f"{label} is no tensor; this model takes {takes.dtype} {takes.shape}") from exc
    return found


def cast(found: NDArray[Any], takes: ModelInput, label: str) -> NDArray[Any]:
    """Return numbers in the model's dtype: whole ones for integers, none that it cannot hold.

    Raises InvalidImage.
    """
    dtype = np.dtype(takes.dtype)
    kinds = {"b": "b", "f": "fiu"}.get(dtype.kind, _WHOLE)
    if found.dtype.kind not in kinds:
        raise InvalidImage(f"{label} does not hold what this model takes: {takes.dtype}")
    if dtype.kind in _WHOLE and found.size and not _within(found, dtype):
        raise InvalidImage(f"{label} holds a number beyond {takes.dtype}")
    with np.errstate(over="ignore"):
        made: NDArray[Any] = found.astype(dtype, copy=False)
    if dtype.kind == "f" and np.isinf(made).sum() != (np.isinf(found).sum() if found.dtype.kind == "f" else 0):
        raise InvalidImage(f"{label} holds a number beyond {takes.dtype}")
    return made


def _within(found: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(found.min()) >= limits.min and int(found.max()) <= limits.max


def _holds_truths(value: object) -> bool:
    return any(map(_holds_truths, value)) if isinstance(value, list) else isinstance(value, bool)
