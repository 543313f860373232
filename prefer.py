"""The headers by which a client says how it wants its answer: Prefer (RFC 7240) and Idempotency-Key.

The latter is draft-ietf-httpapi-idempotency-key-header: a quoted string; without its quotes it is taken too.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.request import parse_http_list

from errors import BadRequest

LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Preferences:
    """What a client prefers and this service honours. wait_s: None where it does not say."""

    wait_s: int | None = None
    respond_async: bool = False

    @property
    def applied(self) -> str:
        """Return the value of Preference-Applied; empty where nothing was asked."""
        parts = ["respond-async"] if self.respond_async else []
        return ", ".join(parts if self.wait_s is None else [*parts, f"wait={self.wait_s}"])


NO_PREFERENCES = Preferences()


def preferences(header: str | None) -> Preferences:
    """Read the Prefer header of a request; the first of a name counts, the unknown and malformed are ignored."""
    if header is None:
        return NO_PREFERENCES
    found: dict[str, str] = {}
    for preference in parse_http_list(header):
        name, _, value = preference.split(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = found.get("wait", "")
    return Preferences(
        int(wait) if wait.isascii() and wait.isdigit() and len(wait) < 10 else None, "respond-async" in found
    )


def read_key(header: str | None) -> str:
    """Return an Idempotency-Key, "" where there is none.

    Raises BadRequest.
    """
    if header is None:
        return ""
    key = header.strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not 1 <= len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise BadRequest(f"Idempotency-Key must be 1 to {LONGEST_KEY} printable ASCII characters")
    return key
