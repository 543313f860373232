"""What a queue does just now, from the looks of the last second: for whoever watches it live. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from looks import Look
from metrics import BATCH_SIZE, MODEL, QUEUE, REQUEST, REQUESTS, Family
from records import Worker

WINDOW_S = 1.0
"""Rates and quantiles are of so long a time: two rounds in which processes publish what they count."""


@dataclass(frozen=True, slots=True)
class WorkerNow:
    """One batcher: its state (gone: silent for too long), and what it did between its last words.

    busy: the share of that time in which its model ran.
    """

    id: str
    state: str
    silent_s: float
    batch_s: float
    busy: float
    batches_per_s: float
    images_per_s: float
    model: str


@dataclass(frozen=True, slots=True)
class Overview:
    """A queue at one moment; quantiles are None where nothing was answered in the window.

    errors_per_s: answers of status 500 and above. batch_sizes: batches since the look before, by the least upper end of
    a bucket that their size fits into.
    """

    time: float
    depth: int
    waiting: int
    in_flight: int
    oldest_s: float
    dead: int
    in_progress: int
    requests_per_s: float
    images_per_s: float
    errors_per_s: float
    p50_s: float | None
    p99_s: float | None
    queue_p50_s: float | None
    model_p50_s: float | None
    batch_sizes: dict[str, int]
    workers: tuple[WorkerNow, ...]


class Watch:
    """Makes an overview of each look, given one after the other."""

    def __init__(self, *, worker_timeout_s: float) -> None:
        self._worker_timeout_s = worker_timeout_s
        self._looks: deque[Look] = deque()
        self._words: dict[str, deque[Worker]] = {}

    def see(self, look: Look) -> Overview:
        """Take in a look and return what it shows."""
        if self._looks and look.at_s < self._looks[-1].at_s:  # another Redis, whose clock is behind
            self._looks.clear()
            self._words.clear()
        before = self._looks[-1] if self._looks else look
        self._looks.append(look)
        while len(self._looks) > 1 and look.at_s - self._looks[1].at_s >= WINDOW_S:
            self._looks.popleft()
        self._words = {one.id: self._words.get(one.id, deque(maxlen=2)) for one in look.workers}
        first = self._looks[0]
        span_s = look.at_s - first.at_s

        def rate(family: Family, wanted: Callable[[str], bool]) -> float:
            return sum(_gained(first, look, family, wanted).values()) / span_s if span_s > 0 else 0.0

        return Overview(
            time=look.at_s,
            depth=look.depth,
            waiting=look.waiting,
            in_flight=look.in_flight,
            oldest_s=look.oldest_s,
            dead=look.dead,
            in_progress=sum(api.in_progress for api in look.apis),
            requests_per_s=rate(REQUESTS, lambda _: True),
            images_per_s=rate(BATCH_SIZE, lambda end: end == "sum"),
            errors_per_s=rate(REQUESTS, lambda labels: labels >= "5"),
            p50_s=quantile(_buckets(first, look, REQUEST), 0.5),
            p99_s=quantile(_buckets(first, look, REQUEST), 0.99),
            queue_p50_s=quantile(_buckets(first, look, QUEUE), 0.5),
            model_p50_s=quantile(_buckets(first, look, MODEL), 0.5),
            batch_sizes={f"{end:g}": round(count) for end, count in _buckets(before, look, BATCH_SIZE).items()},
            workers=tuple(self._now(worker) for worker in sorted(look.workers, key=lambda one: one.id)),
        )

    def _now(self, worker: Worker) -> WorkerNow:
        words = self._words[worker.id]
        if not words or worker.beat_at_s > words[-1].beat_at_s:
            words.append(worker)
        first, last = words[0], words[-1]
        span_s = last.beat_at_s - first.beat_at_s
        gone = worker.silent_s > self._worker_timeout_s

        def rate(gained: float) -> float:
            return gained / span_s if span_s > 0 and not gone else 0.0

        return WorkerNow(
            id=worker.id,
            state="gone" if gone else worker.state,
            silent_s=worker.silent_s,
            batch_s=worker.batch_s,
            busy=min(1.0, rate(last.work.busy_s - first.work.busy_s)),
            batches_per_s=rate(last.work.batches - first.work.batches),
            images_per_s=rate(last.work.images - first.work.images),
            model=worker.model,
        )


def quantile(buckets: dict[float, float], share: float) -> float | None:
    """Return about where this share of the values ends, spread evenly within its bucket; None without values.

    As Prometheus's histogram_quantile does; what is beyond the last bucket counts as its upper end.
    """
    wanted = share * sum(buckets.values())
    below, start = 0.0, 0.0
    for end, count in buckets.items():
        if count and below + count >= wanted:
            return start + (end - start) * (wanted - below) / count if end < float("inf") else start
        below, start = below + count, end
    return None


def _buckets(first: Look, last: Look, family: Family) -> dict[float, float]:
    """Return how many values of a histogram came between two looks, by their bucket's upper end."""
    gained = _gained(first, last, family, lambda end: end != "sum")
    return {end: gained.get(f"{end:g}", 0.0) for end in (*family.buckets, float("inf"))}


def _gained(first: Look, last: Look, family: Family, wanted: Callable[[str], bool]) -> dict[str, float]:
    """Return what came between two looks, by the rest of the field's words; all of it after Redis was emptied."""
    prefix = f"{family.name} "
    gained = {}
    for name, amount in last.totals.items():
        if name.startswith(prefix) and wanted(rest := name.removeprefix(prefix)):
            before = first.totals.get(name, 0.0)
            gained[rest] = amount - before if amount >= before else amount
    return gained
