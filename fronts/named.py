"""Which model a path of another server names, and whether it is the one that is served."""

from __future__ import annotations

from dataclasses import dataclass

from errors import NotFound
from service import Service

VERSION = "1"
"""The one version of the one model that is served."""


@dataclass(frozen=True, slots=True)
class Named:
    """The model that a path names; version, label: None where it names none."""

    name: str
    version: str | None = None
    label: str | None = None


def require_served(service: Service, named: Named, *, labels: tuple[str, ...] = ()) -> None:
    """Look whether it is the model that is served, in its one version.

    Raises NotFound.
    """
    served = service.settings.served_name
    version = named.version.lstrip("0") if named.version else VERSION
    if named.name != served or version != VERSION or named.label not in (None, *labels):
        asked = ", ".join(part for part in (named.name, named.version, named.label) if part)
        raise NotFound(f"there is no model {asked[:200]} here: the one that is served is {served}, version {VERSION}")
