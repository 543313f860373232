"""Long JSON parsed row by row: while Python parses it runs nothing else, and a batch of photographs is long."""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any
from uuid import uuid4

import numpy as np

from fronts.numbers import LONG_BYTES, goes_in_pieces, require_affordable
from inputs import ModelInput
from models.json_numbers import load_json

_MOST_QUOTES = 256
_COMMA = ord(",")


def load(body: bytes, takes: ModelInput, *, flat: bool = False) -> Any:
    """Read JSON; where a long tensor of the model's rows is in it, that is a list of arrays, one a row.

    flat: the tensor may also come as one list of all its numbers.
    Raises ValueError, RecursionError, TooLarge.
    """
    if not goes_in_pieces(body, takes):
        return load_json(body)
    place = _numbers_within(body)
    rows = _rows(body[place[0] : place[1]], takes.shape, flat=flat) if place else None
    if place is None or rows is None:
        require_affordable(body, takes)
        return load_json(body)
    start, end = place
    token = uuid4().hex
    return _with(load_json(b'%b"%b"%b' % (body[:start], token.encode(), body[end:])), token, rows)


def _numbers_within(body: bytes) -> tuple[int, int] | None:
    """Return where the one long list without texts is; None: nowhere, or in several places."""
    found = None
    before = body.find(b'"')
    for _ in range(_MOST_QUOTES):
        quote = body.find(b'"', before + 1)
        after = len(body) if quote < 0 else quote
        if after - before >= LONG_BYTES:
            if found is not None:
                return None
            found = _list_within(body, before, after)
        if quote < 0:
            return found
        before = quote
    return None


def _list_within(body: bytes, start: int, end: int) -> tuple[int, int] | None:
    brace = body.find(b"}", start, end)
    first = body.find(b"[", start, end)
    last = body.rfind(b"]", start, end if brace < 0 else brace)
    return (first, last + 1) if start < first < last else None


def _rows(text: bytes, shape: tuple[int, ...], *, flat: bool) -> list[Any] | None:
    """Return each row as an array; None where the text is something else. Between two numbers there is one comma."""
    opening = text[:LONG_BYTES].translate(None, b" \t\r\n")
    depth = len(opening) - len(opening.lstrip(b"["))
    if depth != len(shape) + 1 and not (flat and depth == 1):
        return None
    if b"true" in text or b"false" in text:  # among numbers an array would make numbers of them
        return None
    commas = np.flatnonzero(np.frombuffer(text, np.uint8) == _COMMA)
    size = prod(shape)
    if (len(commas) + 1) % size:
        return None
    cuts = [0, *commas[size - 1 :: size].tolist(), len(text) - 1]
    pieces = (text[start + 1 : end] for start, end in pairwise(cuts))
    try:
        return [np.asarray(load_json(b"[%b]" % piece if depth == 1 else piece)) for piece in pieces]
    except (ValueError, RecursionError, OverflowError):  # who reads it whole says what is wrong
        return None


def _with(value: Any, token: str, rows: list[Any]) -> Any:
    """Return the JSON value with the rows in the token's place."""
    if isinstance(value, dict):
        return {key: _with(one, token, rows) for key, one in value.items()}
    if isinstance(value, list):
        return [_with(one, token, rows) for one in value]
    return rows if value == token else value
