"""What one process counts and measures, and how all of it is named.

Adding up is cheap where it happens (a list's append, a dict's sum) and is sorted into buckets when somebody looks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

SECONDS = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0),
)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0, 512.0, 1024.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name without the prefix `microbatch_`; with buckets it is a histogram, else a counter."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Family("requests", "Prediction requests answered, by status and code.", ("status", "code"))
REQUEST = Family("request_seconds", "From a request's head to its answer.", buckets=SECONDS)
DECODE = Family("decode_seconds", "Preparing one request's images, here or in the batcher.", buckets=SECONDS)
REDIS = Family("redis_seconds", "One round trip to Redis, by script; waits for a bell left out.", ("script",), SECONDS)
JOBS = Family("jobs", "What became of jobs in a batcher: ok, an error's code, released, or died.", ("outcome",))
QUEUE = Family("queue_seconds", "From a job's submission to the call of the model.", buckets=SECONDS)
BATCHES = Family("batches", "Model calls, by what made their batch as small or large as it was.", ("reason",))
BATCH_SIZE = Family("batch_size", "Images of a model call, padding left out.", buckets=SIZES)
BATCH = Family("batch_seconds", "From the claim of a batch to its predictions.", buckets=SECONDS)
MODEL = Family("model_seconds", "One call of the model.", buckets=SECONDS)
PADDING = Family("padding_images", "Rows added to batches for models of fixed batch sizes.")
FAMILIES = (REQUESTS, REQUEST, DECODE, REDIS, JOBS, QUEUE, BATCHES, BATCH_SIZE, BATCH, MODEL, PADDING)

Amounts = Mapping[str, float]
"""Amounts by field: a family's name, its labels' values, then for a histogram a bucket's upper end, `inf` or `sum`."""


class Measured:
    """The values of one histogram, kept as they come until they are taken."""

    def __init__(self, prefix: str, buckets: tuple[float, ...]) -> None:
        self._fields = [f"{prefix} {end:g}" for end in (*buckets, float("inf"))]
        self._sum = f"{prefix} sum"
        self._buckets = np.array(buckets)
        self._values: list[float] = []
        self.see: Callable[[float], None] = self._values.append
        """Take in one value."""

    def take(self) -> dict[str, float]:
        """Return the amounts since this was last asked for."""
        if not self._values:
            return {}
        values = np.array(self._values)
        self._values.clear()
        counts = np.bincount(self._buckets.searchsorted(values), minlength=len(self._fields))
        amounts = {self._fields[place]: float(counts[place]) for place in counts.nonzero()[0]}
        return amounts | {self._sum: float(values.sum())}


@dataclass(slots=True)
class Metrics:
    """What one process has seen; used by one thread.

    Somebody must take the values now and then, since they are kept until then; unless it is not `on`.
    """

    on: bool = True
    in_progress: int = 0
    request_s: Measured = field(default_factory=lambda: Measured(REQUEST.name, SECONDS))
    decode_s: Measured = field(default_factory=lambda: Measured(DECODE.name, SECONDS))
    queue_s: Measured = field(default_factory=lambda: Measured(QUEUE.name, SECONDS))
    batch_size: Measured = field(default_factory=lambda: Measured(BATCH_SIZE.name, SIZES))
    batch_s: Measured = field(default_factory=lambda: Measured(BATCH.name, SECONDS))
    model_s: Measured = field(default_factory=lambda: Measured(MODEL.name, SECONDS))
    _redis_s: dict[str, Measured] = field(default_factory=dict)
    _counts: defaultdict[tuple[str, ...], float] = field(default_factory=lambda: defaultdict(float))
    _totals: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _fresh: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        """Keep no values where nobody will take them."""
        if not self.on:
            for measured in self._measured():
                measured.see = _ignore

    def answered(self, status: int, code: str, seconds: float) -> None:
        """Count an answered request."""
        self._counts[REQUESTS.name, str(status), code] += 1
        self.request_s.see(seconds)

    def count(self, family: Family, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        self._counts[family.name, *labels] += by

    def redis_replied(self, script: str, seconds: float) -> None:
        """Take in one round trip to Redis."""
        if not self.on:
            return
        measured = self._redis_s.get(script)
        if measured is None:
            measured = self._redis_s[script] = Measured(f"{REDIS.name} {script}", SECONDS)
        measured.see(seconds)

    def add_up(self) -> Amounts:
        """Return all that came since the start."""
        fresh = {" ".join(key): amount for key, amount in self._counts.items()}
        self._counts.clear()
        for measured in (*self._measured(), *self._redis_s.values()):
            fresh |= measured.take()
        for name, amount in fresh.items():
            self._totals[name] += amount
            self._fresh[name] += amount
        return self._totals

    def take(self) -> Amounts:
        """Return what came since this was last asked for."""
        self.add_up()
        taken, self._fresh = self._fresh, defaultdict(float)
        return taken

    def _measured(self) -> tuple[Measured, ...]:
        return self.request_s, self.decode_s, self.queue_s, self.batch_size, self.batch_s, self.model_s


def _ignore(_value: float) -> None:
    pass
