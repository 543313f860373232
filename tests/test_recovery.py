"""A batcher that dies or stops mid-batch costs its jobs a lease, and what it says too late changes nothing."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

import httpx
import pytest

from tests.fleet import Fleet, until
from tests.questions import Question, Sums
from tests.scale import SEED, times
from tests.stack import Stack

TRIES = 20
"""How often a batch may be over before its batcher is caught."""
LATE_S = 0.5

Fate = Callable[[Fleet, Sums], Awaitable[bool]]


async def until_held(fleet: Fleet, settled: int) -> str | None:
    """Return who holds a job as soon as somebody does; None where it was over first: more than `settled` are."""
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        holders = await fleet.holders()
        if holders:
            return holders[0]
        if await fleet.counter("settled") > settled:
            return None
    pytest.fail("nobody took the job")


def ask(client: httpx.AsyncClient, question: Question, **headers: str) -> asyncio.Task[httpx.Response]:
    headers |= {"Content-Type": question.content_type}
    return asyncio.create_task(client.post("/predict", content=question.body, headers=headers))


async def is_answered(client: httpx.AsyncClient, place: str) -> bool:
    return (await client.get(place)).status_code == 200


async def killed_mid_batch(fleet: Fleet, sums: Sums) -> float:
    """Ask, kill who holds the job; return how long after the kill the answer came."""
    for _ in range(TRIES):
        await until("all batchers are idle", fleet.all_idle)
        question, settled = sums(1), await fleet.counter("settled")
        asked = ask(fleet.clients[0], question)
        victim = await until_held(fleet, settled)
        if victim:
            fleet.kill(victim)
            killed_s = time.monotonic()
            was_held = await fleet.leases()
            fleet.start(victim)
            answer = await asked
            took_s = time.monotonic() - killed_s
            assert answer.json()["predictions"] == question.right, f"SEED={SEED}"
            if was_held:
                return took_s
        await asked
    pytest.fail(f"no batcher was caught mid-batch in {TRIES} tries")


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[math.ceil(len(values) * share) - 1]


@pytest.mark.chaos
async def test_a_killed_batchers_job_is_answered_soon_after_its_lease(stack: Stack) -> None:
    lease_s, sums = 2.0, Sums()
    settings = {"MODEL": "simulated", "SIMULATED_BATCH_S": "0.02", "LEASE_S": str(lease_s)}
    async with Fleet(stack, apis=1, batchers=2, **settings) as fleet:
        took_s = [await killed_mid_batch(fleet, sums) for _ in range(times(6, 100))]

        assert percentile(took_s, 0.99) <= lease_s + LATE_S, sorted(took_s)[-5:]


async def not_caught(client: httpx.AsyncClient, asked: asyncio.Task[httpx.Response]) -> bool:
    """Forget a job that was over before anybody could be stopped, and has its answer."""
    place = (await asked).headers["Location"]
    await until("the job is answered", lambda: is_answered(client, place))

    assert (await client.delete(place)).status_code == 204
    return False


async def overtaken(fleet: Fleet, sums: Sums) -> bool:
    """Stop who holds a job until another has answered it, then continue; False where nobody was caught."""
    first, second = fleet.clients
    await until("all batchers are idle", fleet.all_idle)
    ended, refused = await fleet.counter("leases_ended"), await fleet.counter("settle_refused")
    settled = await fleet.counter("settled")
    question = sums(1)
    asked = ask(first, question, Prefer="respond-async")
    zombie = await until_held(fleet, settled)
    if zombie is None:
        return await not_caught(first, asked)
    go_on = fleet.stop(zombie)
    place = (await asked).headers["Location"]
    await until("the job is answered", lambda: is_answered(second, place))
    before = await second.get(place)
    if await fleet.counter("leases_ended") == ended:  # it had settled just before it stopped
        go_on()
        return await not_caught(first, asked)
    others = [sums(1) for _ in range(10)]
    asked_then = [ask(client, other) for other, client in zip(others, fleet.clients * 5, strict=True)]
    go_on()
    await until("the late answer is refused", lambda: more_than(fleet, "settle_refused", refused))
    after = await first.get(place)

    assert [(await one).json()["predictions"] for one in asked_then] == [other.right for other in others]
    assert before.json()["predictions"] == question.right
    assert (after.content, after.headers["server-timing"]) == (before.content, before.headers["server-timing"])
    assert (await first.delete(place)).status_code == 204
    assert (await second.get(place)).status_code == 404
    return True


async def first_after_all(fleet: Fleet, sums: Sums) -> bool:
    """Stop all batchers until the lease of the one that holds a job is over, continue that one, then the others."""
    first, second = fleet.clients
    await until("all batchers are idle", fleet.all_idle)
    settled = await fleet.counter("settled")
    question = sums(1)
    asked = ask(first, question, Prefer="respond-async")
    zombie = await until_held(fleet, settled)
    if zombie is None:
        return await not_caught(first, asked)
    go_ons = [fleet.stop(name) for name in [zombie, *(name for name in fleet.batchers if name != zombie)]]
    place = (await asked).headers["Location"]
    await until("its lease is over, or it had settled", fleet.no_lease_runs)
    caught = await fleet.leases() > 0
    go_ons[0]()
    await until("the job is answered", lambda: is_answered(second, place))
    before = await second.get(place)
    for go_on in go_ons[1:]:
        go_on()
    await until("all batchers are idle", fleet.all_idle)
    after = await first.get(place)

    assert before.json()["predictions"] == question.right
    assert (after.content, after.headers["server-timing"]) == (before.content, before.headers["server-timing"])
    assert await fleet.counter("settled") == settled + 1
    assert (await first.delete(place)).status_code == 204
    return caught


async def nothing_remains(fleet: Fleet) -> bool:
    return not await fleet.remains(results_too=True)


async def more_than(fleet: Fleet, counter: str, before: int) -> bool:
    return await fleet.counter(counter) > before


@pytest.mark.chaos
@pytest.mark.parametrize("fate", [overtaken, first_after_all])
async def test_a_stopped_batcher_that_comes_back_changes_no_answer(stack: Stack, fate: Fate) -> None:
    rounds, sums = times(3, 50), Sums()
    settings = {"MODEL": "simulated", "SIMULATED_BATCH_S": "0.02", "LEASE_S": "0.5", "MAX_SOLO": "1000"}
    async with Fleet(stack, apis=2, batchers=2, **settings) as fleet:
        caught = 0
        for _ in range(rounds * TRIES):
            caught += await fate(fleet, sums)
            if caught == rounds:
                break

        assert caught == rounds
        assert await fleet.audit() == []
        await until("answered results are gone too", lambda: nothing_remains(fleet))
