"""Which model a path of another server names, and who answers for it."""

from __future__ import annotations

from dataclasses import dataclass

from errors import ModelNotFound
from service import Service
from services import Services

VERSION = "1"
"""The one version of every model."""


@dataclass(frozen=True, slots=True)
class Named:
    """The model that a path names; version, label: None where it names none."""

    name: str
    version: str | None = None
    label: str | None = None


def find_served(services: Services, named: Named, *, labels: tuple[str, ...] = ()) -> Service:
    """Return what serves the model, in its one version.

    Raises ModelNotFound.
    """
    service = services.served.get(named.name)
    version = named.version.lstrip("0") if named.version else VERSION
    if service is None or version != VERSION or named.label not in (None, *labels):
        asked = ", ".join(part for part in (named.name, named.version, named.label) if part)
        raise ModelNotFound(
            f"there is no model {asked[:200]} here, only version {VERSION} of {', '.join(services.served)}"
        )
    return service
