"""How a setting of each type is read from the text of its variable."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode


def split(value: object) -> object:
    """Read `a,b,c` as a tuple; an empty text is an empty tuple."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",")) if value.strip() else ()


def empty_is_unset(value: object) -> object:
    """Read an empty text as not set, as Compose and Make pass it."""
    return None if value in ("", ()) else value


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Numbers = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], NoDecode, BeforeValidator(split)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)]
Shape = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...] | None, NoDecode, BeforeValidator(empty_is_unset), BeforeValidator(split)
]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], NoDecode, BeforeValidator(split)]
