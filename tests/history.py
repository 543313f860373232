"""What clients saw of the service, and whether it kept its promise: nothing lost, nothing wrong, nothing twice."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["accepted", "answered", "failed", "refused", "broken", "gone", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: its number is its place in the history. right: the predictions that are its own."""

    at_s: float
    right: Sequence[Any]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw of a request.

    accepted: a 202 · answered: predictions · failed: an error that settles it · refused: an error before it was taken
    broken: the connection ended without an answer · gone: a 404 · cancelled: its client, once told so, is owed nothing
    id: the request's id in the service, "" where it was not told. result: tells two results of one request apart.
    """

    at_s: float
    request: int
    kind: Kind
    id: str = ""
    predictions: Sequence[Any] = ()
    result: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise."""

    kind: Literal["lost", "wrong", "twice"]
    request: int
    what: str


@dataclass
class History:
    """Everything that happened, in the order in which it was seen."""

    requests: list[Sent] = field(default_factory=list)
    events: list[Seen] = field(default_factory=list)

    def sent(self, right: Sequence[Any], *, within_s: float, at_s: float | None = None) -> int:
        """Note that a request is about to leave; return its number."""
        now_s = time.monotonic() if at_s is None else at_s
        self.requests.append(Sent(now_s, right, now_s + within_s))
        return len(self.requests) - 1

    def saw(self, request: int, kind: Kind, *, at_s: float | None = None, **what: Any) -> None:
        """Note what became of a request just now."""
        self.events.append(Seen(time.monotonic() if at_s is None else at_s, request, kind, **what))

    def count(self, kind: Kind) -> int:
        return sum(event.kind == kind for event in self.events)

    def violations(self, *, until_s: float | None = None) -> list[Violation]:
        """Return every broken promise; a request whose deadline is not over yet is not lost yet."""
        now_s = time.monotonic() if until_s is None else until_s
        seen: list[list[Seen]] = [[] for _ in self.requests]
        for event in self.events:
            seen[event.request].append(event)
        found = list(_shared_ids(self.events))
        for number, (sent, events) in enumerate(zip(self.requests, seen, strict=True)):
            found += _wrong(number, sent, events)
            found += _twice(number, events)
            found += _lost(number, sent, events, now_s)
        return found


def _shared_ids(events: Sequence[Seen]) -> Iterator[Violation]:
    owners: dict[str, int] = {}
    for event in events:
        owner = owners.setdefault(event.id, event.request) if event.id else event.request
        if owner != event.request:
            yield Violation("wrong", event.request, f"has the id {event.id} of request {owner}")


def _wrong(number: int, sent: Sent, events: Sequence[Seen]) -> Iterator[Violation]:
    for event in events:
        if event.kind == "answered" and list(event.predictions) != list(sent.right):
            yield Violation("wrong", number, f"{event.id}: {event.predictions} is not {sent.right}")
        if event.kind == "failed" and event.code != "deadline_exceeded":
            yield Violation("wrong", number, f"{event.id}: failed with {event.code}")


def _twice(number: int, events: Sequence[Seen]) -> Iterator[Violation]:
    first: Seen | None = None
    cancelled = False
    for event in events:
        cancelled = cancelled or event.kind == "cancelled"
        if event.kind != "answered":
            continue
        if cancelled:
            yield Violation("twice", number, f"{event.id}: answered after it was collected or cancelled")
        elif first and first.result != event.result:
            yield Violation("twice", number, f"{event.id}: two results, {first.result} and {event.result}")
        first = first or event


def _lost(number: int, sent: Sent, events: Sequence[Seen], now_s: float) -> Iterator[Violation]:
    """Look for what is owed: an answer or a cancellation settles it; before a 202 a refusal or a broken connection."""
    accepted = False
    for event in events:
        accepted = accepted or event.kind == "accepted"
        late_s = event.at_s - sent.deadline_s
        if event.kind == "failed":
            if event.code == "deadline_exceeded":
                yield Violation("lost", number, f"{event.id}: no answer, but deadline_exceeded")
            return
        if event.kind == "gone":
            yield Violation("lost", number, f"{event.id}: unknown before it was answered")
            return
        if event.kind == "answered" and late_s > 0:
            yield Violation("lost", number, f"{event.id}: answered {late_s:.3f} s after its deadline")
        if event.kind in ("answered", "cancelled") or (not accepted and event.kind in ("refused", "broken")):
            return
    if now_s > sent.deadline_s:
        yield Violation("lost", number, "accepted, but never answered" if accepted else "never answered")
