"""Measure the service beside its peers: `python -m bench.peers.run [--only mosec,ray]`, or `make bench-peers`.

Each peer runs in an environment of its own, made once under .venv-peers. Ours is measured in turn with each, so that
a ratio is one of the same minutes; the peer's processes stand still meanwhile. *tensors*: 3 KB and a model that does
nothing, one process for it and one for HTTP. *photos*: decoded and resized, as many processes as there are cores.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import report, workloads
from bench.measuring import CORES, Looks, Row, Size
from bench.parts import Target, service
from bench.peers import checking
from bench.peers.catalogue import FEW, MANY, PEERS, Peer, workload
from bench.peers.environments import SkippedPeerError, installed, prepare
from bench.peers.starting import paused, running
from bench.peers.work import Options
from bench.tables import table
from bench.workloads import Workload
from errors import StartError
from tools.processes import say

RESULTS = Path(__file__).parent.parent / "results"
README_LOADS = ("1", "64")
BUSY = 0.9
"""The share of a core from which on the load generator may be what is measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One workload: how ours is started, and with how many clients it is looked at."""

    name: str
    work: Workload
    workers: int
    clients: Sequence[int]


@dataclass(slots=True)
class Seen:
    """What a run came to, besides its rows: the peers left out and why, and the largest batch of each."""

    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    batches: dict[str, int | None] = field(default_factory=dict)

    def skip(self, name: str, exc: Exception) -> None:
        """Leave something out."""
        self.skipped[name] = str(exc) or type(exc).__name__
        say(f"{name} is skipped: {self.skipped[name]}")

    def notes(self) -> Iterator[str]:
        """Yield what a reader of the table has to know."""
        yield from (f"{name} was skipped: {reason}" for name, reason in self.skipped.items())
        yield from (f"{name}: no batch of more than {most}" for name, most in self.batches.items() if most == 1)
        for row in self.rows:
            if row.errors:
                yield f"{row.plan}, {row.target}, {row.load} clients: {row.errors} answers were none"
        busy = {(row.plan, row.target, row.load) for row in self.rows if (row.generator or 0) > BUSY}
        for plan, target, load in sorted(busy):
            yield f"{plan}, {target}, {load} clients: the load generator took a whole core, it may be the limit"


def main() -> int:
    """Measure, write the results and print them."""
    parser = argparse.ArgumentParser(description="Measure the service beside its peers.")
    parser.add_argument("--only", help="only these, by commas: " + ",".join(peer.key for peer in PEERS))
    parser.add_argument("--plan", choices=["tensors", "photos"], help="only this workload")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a look takes")
    parser.add_argument("--turns", type=int, default=3, help="looks at each")
    parser.add_argument("--readme", action="store_true", help="put the table into README.md too")
    options = parser.parse_args()
    if options.readme and (options.only or options.plan):
        parser.error("--readme tells of a whole run")
    peers = [peer for peer in PEERS if not options.only or peer.key in options.only.split(",")]
    plans = [plan for plan in every_plan() if options.plan in (None, plan.name)]
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # or the peers' Pythons leave their own among ours
    try:
        seen = measure(peers, plans, size=Size(options.seconds, options.turns, ()))
    except (StartError, RuntimeError) as exc:
        say(f"bench-peers: {exc}")
        return 1
    _tell(seen, peers, readme=options.readme)
    return 0


def every_plan() -> list[Plan]:
    """Return both workloads."""
    return [
        Plan("tensors", workloads.tensors(), workers=1, clients=(1, 16, 64, 256)),
        Plan("photos", workloads.photos(), workers=CORES, clients=(16, 64)),
    ]


def measure(peers: Sequence[Peer], plans: Sequence[Plan], *, size: Size) -> Seen:
    """Measure all peers under all plans; a peer that fails is left out with its reason."""
    seen = Seen()
    there = list(_prepared(peers, seen))
    for plan in plans:
        with service(plan.work.settings, batchers=plan.workers) as ours:
            checking.check(ours.url, plan.work, checking.expected(plan.name))
            for peer, python in there:
                for batch in peer.batches if plan.name == "tensors" else (MANY, FEW):
                    _measure_one(seen, plan, ours, peer, python, batch=batch, size=size)
    return seen


def _prepared(peers: Sequence[Peer], seen: Seen) -> Iterator[tuple[Peer, Path]]:
    for peer in peers:
        try:
            yield peer, prepare(peer)
        except SkippedPeerError as exc:
            seen.skip(peer.name, exc)


def _measure_one(seen: Seen, plan: Plan, ours: Target, peer: Peer, python: Path, *, batch: int, size: Size) -> None:
    title = f"{plan.name}: {peer.name}, up to {batch}"
    work, options = workload(plan.name, peer), Options(plan.name, batch=batch, workers=plan.workers)
    try:
        with running(peer, python, work, options) as other:
            seen.batches[title] = checking.check(other.url, work, checking.expected(plan.name))
            with paused(peer, other):
                mine = Looks(title, ours, plan.work)
            seen.rows.extend(_side_by_side(plan, mine, Looks(title, other, work), peer, other, size=size))
    except (SkippedPeerError, RuntimeError, OSError) as exc:
        seen.skip(title, exc)


def _side_by_side(plan: Plan, mine: Looks, theirs: Looks, peer: Peer, other: Target, *, size: Size) -> Iterator[Row]:
    for turn in range(size.turns):
        for clients in plan.clients:
            with paused(peer, other):
                pair = [mine.closed(turn, clients=clients, seconds=size.seconds)]
            pair.append(theirs.closed(turn, clients=clients, seconds=size.seconds))
            if not all(row.per_s for row in pair):
                raise RuntimeError(f"did not answer {clients} clients any more")
            for row in pair:
                say(f"{row.plan}, {row.target} {row.load}: {row.per_s:,.0f}/s")
            yield from pair  # both or neither: ratios are of pairs


def _tell(seen: Seen, peers: Sequence[Peer], *, readme: bool) -> None:
    """Write the results, print the table and what there is to know of it."""
    notes = list(seen.notes())
    environments = {peer.name: installed(peer) for peer in peers if peer.name not in seen.skipped}
    file = RESULTS / "peers.json"
    told = {"skipped": seen.skipped, "largest_batches": seen.batches, "notes": notes, "environments": environments}
    report.write(seen.rows, file, **told)
    if seen.rows:
        print("\n".join(table(report.cells(seen.rows))))
    print("\n".join(notes))
    say(f"written to {file}")
    if readme:
        report.put_into_readme("bench-peers", section(seen.rows, notes))


def section(rows: Sequence[Row], notes: Sequence[str]) -> list[str]:
    """Return the README's lines: the table at the loads that it shows."""
    machine = report.machine()
    how = (
        f"`make bench-peers` on {machine['cores']} cores of {machine['processor']}: medians of the turns of one run, "
        "ours measured in turn with each peer. *Up to* is the most requests in one model call; tensors have one "
        "process for the model, photos one a core. More loads, and what is installed, are in "
        "`bench/results/peers.json`; each peer's settings and their reasons in `bench/peers/`."
    )
    shown = [row for row in rows if row.load in README_LOADS]
    lines = list(table(report.cells(shown), markdown=True)) if shown else []
    return [how, "", *lines, "", *(f"- {note}" for note in notes), ""]


if __name__ == "__main__":
    sys.exit(main())
