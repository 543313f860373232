"""Any process may be killed or stopped at any moment: nothing is lost, nothing is wrong, nothing is answered twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.fleet import Fleet, until
from tests.history import History
from tests.load import STYLES, Load, Style
from tests.questions import Ask, Drawings, Sums
from tests.scale import SEED, times
from tests.stack import Stack

CLIENTS = 16
WITHIN_S = 40.0
"""Longer than the service's own deadline of a request that waits."""
LONGEST_S = 4 * 3600
STOPS = 0.25
"""The share of stops; the others are kills."""
MODELS: dict[str, tuple[Callable[[], Ask], Sequence[Style]]] = {
    "simulated": (Sums, STYLES),
    "digits": (lambda: Drawings(SEED), ("wait", "respond-async")),
}


@dataclass(frozen=True, slots=True)
class Blow:
    """After a pause, a member is killed, or stopped for a time."""

    pause_s: float
    victim: str
    stopped_s: float | None


def blows(members: Sequence[str], kills: int) -> list[Blow]:
    """Choose all victims and pauses, from SEED alone, until there are so many kills."""
    chance, chosen = random.Random(SEED), list[Blow]()  # noqa: S311  # repeatable is what it must be
    while kills:
        stopped_s = chance.uniform(0.05, 2.5) if chance.random() < STOPS else None
        chosen.append(Blow(chance.uniform(0.05, 0.95), chance.choice(members), stopped_s))
        kills -= stopped_s is None
    return chosen


async def strike(fleet: Fleet, blow: Blow) -> None:
    """Kill a member and start it again at once, or stop it for a while."""
    if blow.stopped_s is None:
        fleet.kill(blow.victim)
        fleet.start(blow.victim)
        return
    go_on = fleet.stop(blow.victim)
    await asyncio.sleep(blow.stopped_s)
    go_on()


async def strike_all(fleet: Fleet, chosen: Sequence[Blow]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for blow in chosen:
            await asyncio.sleep(blow.pause_s)
            tasks.create_task(strike(fleet, blow))


async def nothing_remains(fleet: Fleet) -> bool:
    return not await fleet.depth() and not await fleet.remains()


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("model", "jobs", "kills"),
    [
        ("simulated", times(1_500, 100_000), times(20, 2_000)),
        ("digits", times(500, 20_000), times(6, 400)),
    ],
)
async def test_random_kills_lose_nothing(stack: Stack, model: str, jobs: int, kills: int) -> None:
    ask, styles = MODELS[model]
    history, stopping = History(), asyncio.Event()
    # A job that dies again and again by other hands looks like poison: here none is ever given up.
    settings = {"MODEL": model, "SIMULATED_BATCH_S": "0.004", "LEASE_S": "1", "MAX_SOLO": "1000", "LOG_LEVEL": "error"}
    async with Fleet(stack, apis=2, batchers=3, **settings) as fleet:
        load = Load(history, fleet.clients, ask(), within_s=WITHIN_S)
        running = asyncio.create_task(load.run(CLIENTS, stopping, styles=styles))

        await strike_all(fleet, blows([*fleet.apis, *fleet.batchers], kills))
        await until(f"enough jobs are answered, SEED={SEED}", lambda: enough(load, jobs), within_s=LONGEST_S)
        stopping.set()
        await running
        assert history.violations(until_s=time.monotonic() + WITHIN_S) == [], f"SEED={SEED}"
        await until(f"Redis holds nothing any more, SEED={SEED}", lambda: nothing_remains(fleet), within_s=WITHIN_S)
        violations = await fleet.audit()

    print(f"SEED={SEED}: {load.answered} jobs, {kills} kills, {history.count('broken')} broken connections")  # noqa: T201
    assert violations == [], f"SEED={SEED}"
    assert load.answered >= jobs


async def enough(load: Load, jobs: int) -> bool:
    return load.answered >= jobs


def test_the_seed_alone_chooses_who_is_struck_and_when() -> None:
    members = ["api-0", "batcher-0"]

    assert blows(members, 50) == blows(members, 50)
    assert sum(blow.stopped_s is None for blow in blows(members, 50)) == 50
