"""A batcher comes back too late, Redis dies, or its clock is set (C8 to C12): what becomes of the jobs."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.crash_site import LEASE_S, SETTINGS, Asked, Site, all_right, died, stopped
from tests.fleet import Fleet, until
from tests.scale import times
from tests.stack import Stack, until_ready

TRIES = times(1, 100)
HELD = 4
"""The jobs of one claim."""
LATER = "respond-async"

pytestmark = pytest.mark.chaos


@pytest.fixture
async def site(stack: Stack) -> AsyncIterator[Site]:
    """Yield an api whose batcher has left; in the end nothing may be left."""
    async with Fleet(stack, apis=1, batchers=1, **SETTINGS) as fleet:
        await fleet.leave("batcher-0")
        yield Site(stack, fleet)
        await until("nothing is unfinished", lambda: nothing_unfinished(fleet))
        assert await fleet.audit() == []


async def nothing_unfinished(fleet: Fleet) -> bool:
    return await fleet.depth() == 0


async def a_lease_runs(site: Site) -> bool:
    return not await site.fleet.no_lease_runs()


async def places(asked: list[Asked]) -> list[str]:
    """Return where the results of accepted questions will be."""
    answers = [await answer for _, answer in asked]

    assert {answer.status_code for answer in answers} == {202}
    return [answer.headers["location"] for answer in answers]


async def test_c8_batcher_stopped_past_its_lease_is_first_and_its_late_ok_counts(site: Site) -> None:
    for trial in range(1, TRIES + 1):
        asked = await site.asked(HELD)
        late = site.crasher("before settle 1", number=signal.SIGSTOP)
        await stopped(late)
        await until("its leases are over", site.fleet.no_lease_runs)

        late.send_signal(signal.SIGCONT)
        await all_right(asked)

        assert await site.fleet.counter("settled") == HELD * trial
        assert await site.fleet.counter("leases_ended") == 0
        late.kill()
        late.wait()


@pytest.mark.parametrize("model", ["simulated", "python:tests.crashing:Raises", "python:tests.crashing:Away"])
async def test_c8_batcher_stopped_past_its_lease_is_second_and_refused(site: Site, model: str) -> None:
    for _ in range(TRIES):
        # given: a batcher that stands still, about to say ok, an error or a release of one job
        settled, refused = await site.fleet.counter("settled"), await site.fleet.counter("settle_refused")
        asked = await site.asked(1)
        late = site.crasher("before settle 1", number=signal.SIGSTOP, MODEL=model)
        await stopped(late)
        await until("its lease is over", site.fleet.no_lease_runs)

        # when: it comes back while another holds the job, or, with a good answer, after the other's
        rescuer = site.batcher(SIMULATED_BATCH_S="0.5", LEASE_S="10")
        await until("another holds the job", lambda: a_lease_runs(site))
        if model == "simulated":
            await all_right(asked)
        late.send_signal(signal.SIGCONT)
        await site.until_counted("settle_refused", refused + 1)

        # then
        await all_right(asked)
        assert await site.fleet.counter("settled") == settled + 1
        assert await site.fleet.counter("settle_refused") == refused + 1
        for batcher in (late, rescuer):
            batcher.kill()
            batcher.wait()


async def test_c9_redis_is_killed_with_an_append_only_file_and_nothing_is_lost(site: Site) -> None:
    await site.write_all_to_disk()
    for _ in range(TRIES):
        asked = await site.asked(2 * HELD, Prefer=LATER)
        waiting = await site.asked(HELD)
        where = await places(asked)
        await died(site.crasher("after claim 1"))

        await site.restart_redis("--appendonly", "yes")
        assert await site.fleet.audit() == []
        assert await site.fleet.depth() == 3 * HELD

        rescuer = site.batcher()
        for (question, _), place in zip(asked, where, strict=True):
            await site.collected(question, place)
        await all_right(waiting)
        rescuer.kill()
        rescuer.wait()


async def test_c10_redis_restarts_empty_and_who_waits_is_answered_and_the_unknown_is_dropped(site: Site) -> None:
    for _ in range(TRIES):
        # given: a batcher that is about to settle jobs that nobody waits for; others wait
        kept = await site.asked(HELD, Prefer=LATER)
        where = await places(kept)
        late = site.crasher("before settle 1", number=signal.SIGSTOP)
        await stopped(late)
        waiting = await site.asked(HELD)

        # when
        await site.restart_redis()
        late.send_signal(signal.SIGCONT)

        # then
        await all_right(waiting)
        await site.until_counted("settle_refused", HELD)
        assert await site.fleet.counter("settled") == HELD
        assert {(await site.fleet.clients[0].get(place)).status_code for place in where} == {404}
        late.kill()
        late.wait()


@pytest.mark.parametrize("options", [("--appendonly", "yes"), ()], ids=["kept", "emptied"])
async def test_c11_redis_and_api_die_together_and_the_client_comes_back_with_its_key(
    site: Site, options: tuple[str, ...]
) -> None:
    """Nobody holds the job then: only what Redis wrote down survives, and a retry with the key is served anyhow."""
    if options:
        await site.write_all_to_disk()
    for number in range(TRIES):
        # given
        key = {"Idempotency-Key": f"key-{number}"}
        ((kept, promised),) = await site.asked(1, Prefer=LATER)
        place = (await promised).headers["location"]
        ((question, lost),) = await site.asked(1, **key)

        # when
        site.fleet.kill("api-0")
        with pytest.raises(httpx.TransportError):
            await lost
        await site.vouch()
        site.fleet.start("api-0")
        await until_ready(site.fleet.clients[0])
        await site.restart_redis(*options)
        before = await site.fleet.counter("submitted")
        again = site.ask(question, **key)
        rescuer = site.batcher()
        await all_right([(question, again)])

        # then
        ran_anew = await site.fleet.counter("submitted") - before
        assert ran_anew == (0 if options else 1)
        if options:
            await site.collected(kept, place)
        else:
            assert (await site.fleet.clients[0].get(place)).status_code == 404
        rescuer.kill()
        rescuer.wait()


async def test_c12_clock_steps_forward_and_leases_that_end_early_cost_a_repeat(site: Site) -> None:
    for _ in range(TRIES):
        settled, refused = await site.fleet.counter("settled"), await site.fleet.counter("settle_refused")
        asked = await site.asked(HELD)
        late = site.crasher("before settle 1", number=signal.SIGSTOP, LEASE_S="60")
        await stopped(late)
        held = await site.fleet.leases()  # not all, where a batcher that was killed still counts as idle

        await site.shift("leases", -3600)
        rescuer = site.batcher()
        await all_right(asked)
        late.send_signal(signal.SIGCONT)
        await site.until_counted("settle_refused", refused + held)

        assert held > 0
        assert await site.fleet.counter("settled") == settled + HELD
        for batcher in (late, rescuer):
            batcher.kill()
            batcher.wait()


async def test_c12_clock_steps_back_and_a_dead_batchers_jobs_wait_longer(site: Site) -> None:
    for _ in range(TRIES):
        asked = await site.asked(HELD)
        await died(site.crasher("after claim 1"))
        began_s = time.monotonic()

        await site.shift("leases", 2)
        rescuer = site.batcher()
        await all_right(asked)

        assert time.monotonic() - began_s > 2 - LEASE_S
        rescuer.kill()
        rescuer.wait()


async def test_c12_clock_steps_forward_past_deadlines_and_who_waits_is_told_early(site: Site) -> None:
    for _ in range(TRIES):
        asked = await site.asked(HELD)

        await site.shift("deadlines", -3600)
        rescuer = site.batcher()
        answers = [await answer for _, answer in asked]

        assert {answer.status_code for answer in answers} == {504}
        rescuer.kill()
        rescuer.wait()
