"""What is measured: plans that start something, load it, and yield one row for each look."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from os import cpu_count
from typing import Any

import uvloop

from bench import bare
from bench.load import Load, closed_loop, open_loop, request_bytes
from bench.models import Convolution, Wide
from bench.parts import Target, floor, service
from bench.workloads import Workload, for_model, photos, tensors

CORES = cpu_count() or 1
WARM_UP_S = 0.5
MODEL_BATCH_S, MODEL_BATCH = 0.02, 32


@dataclass(frozen=True, slots=True)
class Row:
    """One look at one target.

    per_s: answers a second. reference: what ours is held against. generator: the share of a core that the load took.
    """

    plan: str
    target: str
    reference: bool
    load: str
    turn: int
    per_s: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: int = 0
    cpu_s_per_1000: float | None = None
    generator: float | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: seconds a look, looks at each, and clients of the closed loops."""

    seconds: float
    turns: int
    clients: Sequence[int]


QUICK = Size(seconds=2.0, turns=3, clients=(1, 16, 64))
FULL = Size(seconds=3.0, turns=5, clients=(1, 16, 64, 256, 1000))


def overhead(size: Size) -> Iterator[Row]:
    """Yield what the service costs: a 3 KB tensor and a model that does nothing, beside the floor."""
    work = tensors()
    with service(work.settings) as ours, floor() as least:
        looks = [Looks("overhead", target, work) for target in (least, ours)]
        for turn in range(size.turns):
            for clients in size.clients:
                for look in looks:
                    yield look.closed(turn, clients=clients, seconds=size.seconds)


def images(size: Size) -> Iterator[Row]:
    """Yield photos a second beside a bare loop on all cores, with as many batchers as there are: they decode."""
    work = photos()
    with service(work.settings, batchers=CORES) as ours:
        look = Looks(f"photos, {CORES} batchers", ours, work)
        for turn in range(size.turns):
            yield _bare(look.plan, "photos", turn, processes=CORES, seconds=size.seconds)
            for clients in (16, 64):
                yield look.closed(turn, clients=clients, seconds=size.seconds)


def model_bound(size: Size, *, batchers: int) -> Iterator[Row]:
    """Yield how much of a model of 20 ms a batch of 32 is used, against what it could do."""
    work = tensors(SIMULATED_BATCH_S=str(MODEL_BATCH_S))
    limit = batchers * MODEL_BATCH / MODEL_BATCH_S
    with service(work.settings, batchers=batchers) as ours:
        look = Looks(f"20 ms a batch, {batchers} batcher(s)", ours, work)
        for turn in range(size.turns):
            yield Row(look.plan, "limit", reference=True, load="", turn=turn, per_s=limit)
            yield look.closed(turn, clients=128 * batchers, seconds=2 * size.seconds)


def weight_bound(size: Size) -> Iterator[Row]:
    """Yield what batching gives a model whose cost is its weights, beside a bare loop of full batches."""
    yield from _beside_full_batches("weights: 3 layers of 4096 x 4096", for_model(Wide), "wide", size)


def arithmetic_bound(size: Size) -> Iterator[Row]:
    """Yield what batching gives a model whose cost is its arithmetic."""
    yield from _beside_full_batches("arithmetic: 3 convolutions of 3 x 3", for_model(Convolution), "convolution", size)


def _beside_full_batches(plan: str, work: Workload, bare_plan: str, size: Size) -> Iterator[Row]:
    with service(work.settings) as ours:
        look = Looks(plan, ours, work)
        for turn in range(size.turns):
            yield _bare(plan, bare_plan, turn, processes=1, seconds=size.seconds)
            for clients in (1, 128):
                yield look.closed(turn, clients=clients, seconds=2 * size.seconds)


def arrivals(size: Size) -> Iterator[Row]:
    """Yield latencies under Poisson arrivals, counted from the intended moment, at parts of what the model can do."""
    work = tensors(SIMULATED_BATCH_S=str(MODEL_BATCH_S))
    with service(work.settings) as ours:
        look = Looks("arrivals at a part of 1,600/s", ours, work)
        for turn in range(size.turns):
            for part in (0.2, 0.5, 0.8):
                yield look.open(turn, part=part, seconds=2 * size.seconds)


class Looks:
    """One target under one workload; it has been warmed up."""

    def __init__(self, plan: str, target: Target, work: Workload) -> None:
        self.plan = plan
        self._target = target
        self._requests = [
            request_bytes(target.url, body, work.content_type, path=work.path, headers=work.headers)
            for body in work.bodies
        ]
        load = uvloop.run(closed_loop(target.url, self._requests, clients=16, seconds=WARM_UP_S))
        if load.errors or not load.latencies_s:
            raise RuntimeError(f"{target.name} does not answer as it should: {load.statuses}")

    def closed(self, turn: int, *, clients: int, seconds: float) -> Row:
        """Look at it with so many clients, each of which waits for its answer."""
        return self._look(
            turn, str(clients), closed_loop(self._target.url, self._requests, clients=clients, seconds=seconds)
        )

    def open(self, turn: int, *, part: float, seconds: float) -> Row:
        """Look at it under arrivals that wait for nothing."""
        rate = part * MODEL_BATCH / MODEL_BATCH_S
        return self._look(turn, f"{part:.0%}", open_loop(self._target.url, self._requests, rate=rate, seconds=seconds))

    def _look(self, turn: int, load_name: str, loading: Coroutine[Any, Any, Load]) -> Row:
        before_s, own_before_s = sum(self._target.cpu_s().values()), time.process_time()
        load = uvloop.run(loading)
        taken_s = sum(self._target.cpu_s().values()) - before_s
        return Row(
            self.plan,
            self._target.name,
            reference=self._target.name != "ours",
            load=load_name,
            turn=turn,
            per_s=load.rate,
            p50_ms=load.quantile_ms(0.5),
            p99_ms=load.quantile_ms(0.99),
            errors=load.errors,
            cpu_s_per_1000=taken_s / max(1, len(load.latencies_s)) * 1000,
            generator=(time.process_time() - own_before_s) / load.seconds,
        )


def _bare(plan: str, what: str, turn: int, *, processes: int, seconds: float) -> Row:
    done = bare.measure(what, processes=processes, seconds=seconds)
    cost_s = done.cpu_s_per_1000
    return Row(plan, "bare loop", reference=True, load="", turn=turn, per_s=done.images_per_s, cpu_s_per_1000=cost_s)
