"""Measure how the cost grows: `python -m bench.growth [--plan payload]`, or `make bench-growth`, about six minutes.

One thing grows at a time: jobs that wait, payloads, batches, batchers, api workers. Each line is the median of three
looks; the last columns tell how much of a core each kind of process took, so what bends first is what is near the
machine's end. What is written goes to bench/results/growth.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import orjson

from bench import depths
from bench.measuring import MODEL_BATCH_S, Looks
from bench.parts import Target, service
from bench.report import machine
from bench.tables import table
from bench.workloads import Workload, bytes_tensor, tensors
from errors import StartError
from tools.processes import say

RESULTS = Path(__file__).parent / "results"
SECONDS, TURNS = 3.0, 3
PARTS = ("api", "batcher", "redis")
HEADER = ["", "1/s", "p50 ms", "p99 ms", "CPU s/1,000", *(f"{part}, cores" for part in PARTS)]


@dataclass(frozen=True, slots=True)
class Step:
    """One line: what has grown to where, and what it did. cores: of each kind of process, all of a kind together."""

    plan: str
    grown: str
    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    cores: Mapping[str, float]
    errors: int = 0

    def cells(self) -> list[str]:
        """Return it as the texts of a table's row."""
        times = [f"{self.p50_ms:.2f}", f"{self.p99_ms:.2f}", f"{self.cpu_s_per_1000:.3f}"]
        return [self.grown, f"{self.per_s:,.0f}", *times, *(f"{self.cores[part]:.2f}" for part in PARTS)]


def payloads() -> Iterator[Step]:
    """Yield tensors of 1 KB to 5 MB, 16 clients."""
    for kilobytes in (1, 16, 64, 256, 1024, 5 * 1024):
        work = bytes_tensor(kilobytes * 1024)
        with service(work.settings) as ours:
            yield _step("payload, KB", f"{kilobytes:,}", ours, work, clients=16)


def batches() -> Iterator[Step]:
    """Yield batches of at most 1 to 256 for a model that costs nothing, 256 clients."""
    for size in (1, 2, 8, 32, 128, 256):
        work = tensors(MAX_BATCH_SIZE=str(size))
        with service(work.settings) as ours:
            yield _step("largest batch", str(size), ours, work, clients=256)


def batchers() -> Iterator[Step]:
    """Yield 1 to 8 batchers, each with a model of 20 ms a batch of 32 and 128 clients."""
    for count in (1, 2, 4, 8):
        work = tensors(SIMULATED_BATCH_S=str(MODEL_BATCH_S), MAX_QUEUE_DEPTH="4096")
        with service(work.settings, batchers=count) as ours:
            yield _step("batchers of 1,600/s", str(count), ours, work, clients=128 * count)


def api_workers() -> Iterator[Step]:
    """Yield 1 to 4 api workers, 64 clients."""
    for count in (1, 2, 4):
        work = tensors()
        with service(work.settings, api_workers=count) as ours:
            yield _step("api workers", str(count), ours, work, clients=64)


def waiting() -> Iterator[Step]:
    """Yield what a batch of 32 costs the queue while 10 to 100,000 other jobs wait in it."""
    for look in depths.measure((10, 100, 1_000, 10_000, 100_000), seconds=SECONDS):
        cores = {"api": 0.0, "batcher": look.own_cores, "redis": look.redis_cores}
        cost_s = sum(cores.values()) / look.per_s * 1000
        yield Step("jobs waiting", f"{look.depth:,}", look.per_s, look.p50_ms, look.p99_ms, cost_s, cores)


PLANS = {
    "waiting": waiting,
    "payloads": payloads,
    "batches": batches,
    "batchers": batchers,
    "api workers": api_workers,
}


def main() -> int:
    """Measure, write the tables and print them."""
    parser = argparse.ArgumentParser(description="Measure how the cost grows.")
    parser.add_argument("--plan", default="", help="only plans whose name has this in it")
    wanted = parser.parse_args().plan
    try:
        steps = [_said(step) for name, plan in PLANS.items() if wanted in name for step in plan()]
    except (StartError, RuntimeError) as exc:
        say(f"bench: {exc}")
        return 1
    print("\n".join(tables(steps, markdown=False)))
    if not wanted:
        _write(steps)
    return 0


def tables(steps: list[Step], *, markdown: bool) -> Iterator[str]:
    """Yield the lines of a table a plan."""
    for plan in dict.fromkeys(step.plan for step in steps):
        rows = [step.cells() for step in steps if step.plan == plan]
        yield from table([[plan, *HEADER[1:]], *rows], markdown=markdown)
        yield ""


def _said(step: Step) -> Step:
    say(f"{step.plan} {step.grown}: {step.per_s:,.0f}/s" + (f", {step.errors} errors" if step.errors else ""))
    return step


def _step(plan: str, grown: str, target: Target, work: Workload, *, clients: int) -> Step:
    look = Looks(plan, target, work)
    before_s = target.cpu_s()
    rows = [look.closed(turn, clients=clients, seconds=SECONDS) for turn in range(TURNS)]
    taken_s = {name: seconds - before_s[name] for name, seconds in target.cpu_s().items()}
    return Step(
        plan,
        grown,
        per_s=median(row.per_s for row in rows),
        p50_ms=median(row.p50_ms or 0.0 for row in rows),
        p99_ms=median(row.p99_ms or 0.0 for row in rows),
        cpu_s_per_1000=median(row.cpu_s_per_1000 or 0.0 for row in rows),
        cores={
            part: sum(seconds for name, seconds in taken_s.items() if name.startswith(part)) / (TURNS * SECONDS)
            for part in PARTS
        },
        errors=sum(row.errors for row in rows),
    )


def _write(steps: list[Step]) -> None:
    told = machine()
    document = {"measured": told, "steps": [asdict(step) for step in steps]}
    (RESULTS / "growth.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    how = (
        f"# How the cost grows\n\n`make bench-growth` on {told['cores']} cores of {told['processor']}, Redis "
        f"{told['redis']}, Python {told['python']}. The load generator shares those cores."
    )
    (RESULTS / "growth.md").write_text("\n".join([how, "", *tables(steps, markdown=True)]))
    say(f"written to {RESULTS / 'growth.md'}")


if __name__ == "__main__":
    sys.exit(main())
