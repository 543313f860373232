"""What is wrong with the settings, each in one sentence that names key, value and rule. No I/O."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from pydantic import ValidationError

SECRET = "REDIS_URL"  # noqa: S105  # the name of what may hold one


def unknown_names(given: Iterable[str], prefix: str, known: Iterable[str]) -> list[str]:
    """Say of each unknown variable of ours which setting it is close to."""
    known = set(known)
    found = []
    for name in sorted(given):
        if name.upper().startswith(prefix) and name.upper() not in known:
            bare = name.upper().removeprefix(prefix)
            near = f"; did you mean {bare}?" if bare in known else did_you_mean(name.upper(), known)
            found.append(f"{name}: no such setting{near}")
    return found


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return the half sentence that names what is closest, empty where nothing is close."""
    close = difflib.get_close_matches(given, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def sentences(exc: ValidationError, names: Mapping[str, str], environment: Mapping[str, str]) -> list[str]:
    """Say each error as `KEY=value: rule`.

    names: the variable of each field.
    """
    found = []
    for error in exc.errors():
        rule = error["msg"].removeprefix("Value error, ")
        key = str(error["loc"][0]) if error["loc"] else ""
        if not key:
            found.append(rule)
            continue
        name = names.get(key, key)
        given = str(environment.get(name, error["input"]))
        value = "(not shown)" if name == SECRET or "@" in given else given  # a password may be in it
        found.append(" ".join(f"{name}={value}: {rule}".splitlines()))
    return found
