"""One look at a queue: how it stands, who works on it, and what has been counted so far. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from records import Worker

SILENT_S = 5.0
"""After this an api process counts as gone; it says what it does every two seconds at least."""


@dataclass(frozen=True, slots=True)
class ApiProcess:
    """What an api process says of itself: requests it has not answered yet, and the bytes it holds of them."""

    in_progress: int
    held_bytes: int

    def row(self) -> str:
        """Return what it publishes."""
        return f"{self.in_progress} {self.held_bytes}"


@dataclass(frozen=True, slots=True)
class Look:
    """A queue at one moment.

    at_s: when, by Redis's clock. in_flight: jobs under a lease. oldest_s: since the oldest waiting job was submitted, 0
    without one. uncollected: results that wait for a client. events: what the scripts count. totals: what the processes
    count, by the fields of `metrics`.
    """

    at_s: float
    depth: int
    waiting: int
    in_flight: int
    oldest_s: float
    dead: int
    uncollected: int
    events: Mapping[str, int]
    totals: Mapping[str, float]
    apis: tuple[ApiProcess, ...]
    workers: tuple[Worker, ...]


def read_look(reply: Sequence[Any]) -> Look:
    """Read what LOOK returns.

    Raises ValueError or TypeError where it is no such thing.
    """
    now_ms, depth, waiting, in_flight, oldest_ms, dead, uncollected, events, totals, apis, workers = reply
    return Look(
        now_ms / 1000,
        depth,
        waiting,
        in_flight,
        max(0, oldest_ms) / 1000,
        dead,
        uncollected,
        {name: int(amount) for name, amount in _pairs(events).items() if amount.isdecimal()},
        dict(_numbers(totals)),
        tuple(_read_apis(apis, now_ms)),
        tuple(read_workers(workers, now_ms)),
    )


def read_workers(fields: Sequence[bytes], now_ms: float) -> list[Worker]:
    """Read the rows of the workers; those of another version are left out."""
    found = []
    for worker_id, text in zip(fields[::2], fields[1::2], strict=True):
        try:
            found.append(Worker.from_row(worker_id.decode(), text, now_ms))
        except (ValueError, TypeError, LookupError, AttributeError):
            continue
    return found


def _read_apis(fields: Sequence[bytes], now_ms: float) -> Iterator[ApiProcess]:
    for text in _pairs(fields).values():
        try:
            beat_ms, in_progress, held_bytes = text.split()
            if now_ms - float(beat_ms) <= SILENT_S * 1000:
                yield ApiProcess(int(in_progress), int(held_bytes))
        except ValueError:
            continue


def _numbers(fields: Sequence[bytes]) -> Iterator[tuple[str, float]]:
    """Yield what holds a number; what does not, since somebody wrote over it, is left out."""
    for name, text in _pairs(fields).items():
        with suppress(ValueError):
            yield name, float(text)


def _pairs(fields: Sequence[bytes]) -> dict[str, str]:
    names, values = fields[::2], fields[1::2]
    return {
        name.decode(errors="replace"): value.decode(errors="replace") for name, value in zip(names, values, strict=True)
    }
