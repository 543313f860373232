"""An api or a batcher dies at each point of its work (C1 to C8): what is left behind, and what becomes of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest

from tests.crash_site import SETTINGS, Asked, Site, all_right, died
from tests.fault_proxy import FaultProxy
from tests.faults import DROP
from tests.fleet import KEY, Fleet, until
from tests.questions import Question
from tests.scale import SEED, times
from tests.stack import Stack, until_ready

TRIES = times(2, 100)
ASKED = 8

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


async def ask_one_that_dies(site: Site, point: str, question: Question, **headers: str) -> httpx.Response | None:
    """Ask an api of its own that dies at a point; return its answer, None where the connection broke."""
    socket = site.fleet.socket("dying")
    await site.vouch()
    api = site.crasher(point, "uvicorn", "api:app", "--uds", socket, "--no-access-log")
    transport = httpx.AsyncHTTPTransport(uds=socket)
    headers |= {"Content-Type": question.content_type}
    answer: httpx.Response | None = None
    async with httpx.AsyncClient(transport=transport, base_url="http://dying", timeout=30) as client:
        await until_ready(client)
        with suppress(httpx.TransportError):
            answer = await client.post("/predict", content=question.body, headers=headers)
    await died(api)
    return answer


async def test_c1_api_dies_before_submit_and_nothing_was_accepted(site: Site) -> None:
    for _ in range(TRIES):
        answer = await ask_one_that_dies(site, "before submit 1", site.sums(1))

        assert answer is None
        assert await site.fleet.depth() == 0
        assert await site.fleet.counter("submitted") == 0


async def test_c2_api_dies_after_submit_and_its_job_runs_once(site: Site) -> None:
    site.batcher()
    for number in range(1, TRIES + 1):
        answer = await ask_one_that_dies(site, "after submit 1", site.sums(1))
        await site.until_counted("settled", number)

        assert answer is None
        assert await site.fleet.counter("claimed") == number
        assert await site.fleet.redis.zcard(KEY + "results") == number


async def test_c2_api_dies_after_submit_and_the_retry_with_its_key_attaches_to_the_job(site: Site) -> None:
    site.batcher()
    for number in range(1, TRIES + 1):
        question, headers = site.sums(1), {"Idempotency-Key": f"key-{number}"}
        lost = await ask_one_that_dies(site, "after submit 1", question, **headers)

        await all_right([(question, site.ask(question, **headers))])

        assert lost is None
        assert await site.fleet.counter("submitted") == number
        assert await site.fleet.counter("settled") == number


async def test_c3_api_dies_after_answering_before_drop_and_the_result_ends_by_itself(site: Site) -> None:
    site.batcher(RESULT_TTL_S="1")

    async def no_results() -> bool:
        return await site.fleet.redis.keys(KEY + "result:*") == []

    for number in range(1, TRIES + 1):
        question = site.sums(1)
        answer = await ask_one_that_dies(site, "before drop 1", question)

        assert answer is not None
        assert answer.json()["predictions"] == question.right
        assert await site.fleet.counter("settled") == number
        await until("the result has ended", no_results)


async def test_c4_batcher_dies_before_claim_applied_and_the_next_claimer_has_its_jobs(site: Site) -> None:
    for trial in range(TRIES):
        asked = await site.asked(ASKED)
        await died(site.crasher(f"before claim {1 + trial % 2}"))

        assert await site.fleet.leases() == 0

        await rescued(site, asked)
        assert await site.fleet.counter("leases_ended") == 0


async def test_c5_batcher_dies_after_claim_applied_and_its_lease_ends(site: Site) -> None:
    for trial in range(TRIES):
        ended = await site.fleet.counter("leases_ended")
        asked = await site.asked(ASKED)
        await died(site.crasher(f"after claim {1 + trial % 2}"))
        held = await site.fleet.leases()

        await rescued(site, asked)

        assert held > 0
        assert await site.fleet.counter("leases_ended") >= ended + held


async def test_c5_claims_reply_is_lost_and_the_same_claim_gives_the_same_batch(site: Site) -> None:
    await retried(site, "CLAIM")

    assert await site.fleet.counter("leases_ended") == 0


async def test_c6_batcher_dies_before_settle_and_its_batch_is_computed_again(site: Site) -> None:
    for trial in range(TRIES):
        settled = await site.fleet.counter("settled")
        asked = await site.asked(ASKED)
        await died(site.crasher(f"before settle {1 + trial % 2}"))
        held = await site.fleet.leases()

        await rescued(site, asked)

        assert held > 0
        assert await site.fleet.counter("settled") == settled + ASKED


async def test_c7_batcher_dies_after_settle_applied_and_its_results_are_answered(site: Site) -> None:
    for trial in range(TRIES):
        settled = await site.fleet.counter("settled")
        asked = await site.asked(ASKED)
        await died(site.crasher(f"after settle {1 + trial % 2}"))
        done = await site.fleet.counter("settled") - settled

        assert done + await site.fleet.depth() == ASKED
        assert await site.fleet.leases() == 0
        assert done > 0

        await rescued(site, asked)
        assert await site.fleet.counter("leases_ended") == 0


async def test_c7_settles_reply_is_lost_and_the_retry_changes_nothing(site: Site) -> None:
    await retried(site, "SETTLE")

    assert await site.fleet.counter("settled") == TRIES * ASKED
    assert await site.fleet.counter("settle_refused") >= TRIES


async def rescued(site: Site, asked: list[Asked], **settings: str) -> None:
    """Start a batcher, wait for the answers, and let it leave.

    One that is killed may leave a claim behind that waits for the bell, and takes what is asked next.
    """
    rescuer = site.batcher(**settings)
    await all_right(asked)
    rescuer.terminate()
    assert await asyncio.to_thread(rescuer.wait, 10) in (0, -signal.SIGTERM)  # which comes early where all were saved


async def retried(site: Site, command: str) -> None:
    """Lose the reply to a batcher's first such command, which is about jobs; all is answered."""
    door = site.stack.folder / "proxy.sock"
    with FaultProxy(door, site.stack.folder / "redis.sock", seed=SEED) as proxy:
        for _ in range(TRIES):
            asked = await site.asked(ASKED)
            order = proxy.order(command, DROP)
            await rescued(site, asked, REDIS_URL=f"unix://{door}")
            await order.carried_out()
