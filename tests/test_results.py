"""The api's side of waiting, against a real server and a worker that the test plays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

import numpy as np
import pytest

from errors import DeadlineExceeded, QueueFull, Unavailable
from jobs import JobQueue
from outbox import Outbox
from readiness import Readiness, override_input
from records import Claim, Job, Progress, Settlement, Timing, Worker, prediction_value, tensor_payload
from results import Results
from tests.stack import Stack

TAKES_ANY = override_input(shape=(2, 2), dtype=None, accepts=None, fit=None)


class Desk:
    """One api's `Results`, and the hands of a worker."""

    def __init__(self, url: str) -> None:
        self.queue = JobQueue(url, name="test", timeout_s=2)
        self.readiness = Readiness(self.queue, worker_timeout_s=5, override=TAKES_ANY)
        self.outbox = Outbox(
            self.queue,
            self.readiness,
            api_id="api",
            max_queue_depth=4,
            max_results=2,
            max_batch_size=2,
            arriving=lambda: 0,
        )
        self.results = Results(self.queue, self.readiness, self.outbox, api_id="api")

    async def claim(self, *, at_least: int = 1) -> Claim:
        """Claim until there are jobs; at most five seconds."""
        end_s = time.monotonic() + 5
        while time.monotonic() < end_s:
            if await self.queue.depth() >= at_least:
                claim = await self.queue.claim(
                    uuid4().hex,
                    worker_id="worker",
                    max_batch_size=8,
                    lease_s=5,
                    least_s=0,
                    max_solo=3,
                    max_wait_s=0,
                    block_s=0,
                )
                if claim.jobs:
                    return claim
            await asyncio.sleep(0.005)
        pytest.fail("nothing to claim in 5 s")

    async def settle(self, claim: Claim, *, api_id: str = "api") -> None:
        """Answer each job with its own UUID."""
        settlements = [Settlement(one.uuid, api_id, "ok", prediction_value(one.uuid, Timing())) for one in claim.jobs]
        await self.queue.settle(claim.id, settlements, result_ttl_s=60)


@pytest.fixture
async def desk(stack: Stack) -> AsyncIterator[Desk]:
    stack.start_redis()
    opened = Desk(f"unix://{stack.folder}/redis.sock")
    end_s = time.monotonic() + 5
    while not opened.readiness.redis_is_up and time.monotonic() < end_s:
        with suppress(Unavailable):
            await opened.readiness.look()
        await asyncio.sleep(0.01)
    await opened.queue.beat(Worker("there", "idle", 0.0, TAKES_ANY(None), 0.0, "digits"), lease_s=1, held={})
    await opened.readiness.look()
    running = asyncio.create_task(opened.results.run())
    yield opened
    running.cancel()
    await opened.queue.close()


def job() -> Job:
    uuid = str(uuid4())
    return Job(uuid, tensor_payload(uuid, np.zeros((2, 2), np.uint8)))


async def until(desk: Desk, one: Job, progress: Progress) -> None:
    """Poll until a job is as far; at most five seconds."""
    end_s = time.monotonic() + 5
    while (said := await desk.queue.poll([one.uuid])) != [progress]:
        assert time.monotonic() < end_s, said
        await asyncio.sleep(0.005)


async def test_each_request_gets_its_own_results_and_leaves_nothing_behind(desk: Desk) -> None:
    requests = [[job(), job()], [job()]]

    asked = [asyncio.create_task(desk.results.ask(jobs, timeout_s=5)) for jobs in requests]
    await desk.settle(await desk.claim(at_least=3))
    answers = await asyncio.gather(*asked)

    said = [[result.prediction.decode() for result in results] for results in answers]
    assert said == [[f'"{one.uuid}"' for one in jobs] for jobs in requests]
    await until(desk, requests[0][0], Progress.UNKNOWN)


async def test_an_answer_whose_ring_was_lost_comes_by_polling(desk: Desk) -> None:
    asked = asyncio.create_task(desk.results.ask([job()], timeout_s=5))
    await desk.settle(await desk.claim(), api_id="nobody")

    started_s = time.monotonic()
    (result,) = await asked

    assert result.error is None
    assert time.monotonic() - started_s < 1


async def test_a_job_that_redis_has_forgotten_is_submitted_again(desk: Desk) -> None:
    one = job()
    asked = asyncio.create_task(desk.results.ask([one], timeout_s=5))
    await desk.claim()
    await desk.queue.drop([one.uuid])

    await desk.settle(await desk.claim())
    (result,) = await asked

    assert result.prediction.decode() == f'"{one.uuid}"'


async def test_a_job_without_a_result_in_time_is_cancelled(desk: Desk) -> None:
    one = job()

    (result,) = await desk.results.ask([one], timeout_s=0.1)

    assert isinstance(result.error, DeadlineExceeded)
    await until(desk, one, Progress.UNKNOWN)
    assert await desk.queue.depth() == 0


async def test_a_request_that_nobody_waits_for_any_more_is_cancelled(desk: Desk) -> None:
    one = job()
    asked = asyncio.create_task(desk.results.ask([one], timeout_s=5))
    await until(desk, one, Progress.WORKING)

    asked.cancel()

    await until(desk, one, Progress.UNKNOWN)
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_a_full_queue_refuses_and_says_when_to_come_back(desk: Desk) -> None:
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(desk.results.ask([job() for _ in range(4)], timeout_s=0.3))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as refused:
            await desk.results.ask([job()], timeout_s=5)
        with pytest.raises(QueueFull):
            desk.outbox.require_room(5)
        desk.outbox.require_room(6)

    assert refused.value.retry_after_s == 1
    assert len(asked.result()) == 4


async def test_a_kept_result_stays_until_it_was_handed_over(desk: Desk) -> None:
    left, waited_for = job(), job()

    promised = await desk.results.ask_and_keep([left], timeout_s=5, wait_s=0)
    await desk.settle(await desk.claim())
    asked = asyncio.create_task(desk.results.ask_and_keep([waited_for], timeout_s=5, wait_s=5))
    await desk.settle(await desk.claim())
    results = await asked

    assert promised is None
    assert results is not None
    desk.results.collected(results)
    assert [result.uuid for result in results] == [waited_for.uuid]
    await until(desk, waited_for, Progress.UNKNOWN)
    assert (await desk.queue.poll([left.uuid]))[0] is not Progress.UNKNOWN


async def test_a_wait_that_is_over_leaves_the_kept_job_running(desk: Desk) -> None:
    one = job()

    promised = await desk.results.ask_and_keep([one], timeout_s=5, wait_s=0.05)

    assert promised is None
    assert await desk.queue.poll([one.uuid]) == [Progress.WORKING]


async def test_readiness_names_what_is_missing(desk: Desk) -> None:
    fresh = Readiness(
        desk.queue, worker_timeout_s=0.05, override=override_input(shape=None, dtype=None, accepts=None, fit=None)
    )
    missing = []
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            fresh.require()
        missing.append(refused.value.message)
        await fresh.look()
        await asyncio.sleep(0.06)

    worker = Worker("worker", "idle", 0.0, TAKES_ANY(None), 0.25, "digits")
    await desk.queue.beat(worker, lease_s=1, held={})
    await fresh.look()

    assert ["Redis" in missing[0], "batcher" in missing[1]] == [True, True]
    assert fresh.require().shape == (2, 2)
    assert fresh.batch_s == 0.25
