"""Workers join, leave and die all the time while jobs flow: the queue is whole at every look, and nothing is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from jobs import JobQueue
from records import Admission, Claim, Settlement, Timing, Worker, WorkerState, prediction_value, read_result
from tests import test_jobs
from tests.scale import LONG, SEED, times
from tests.scene import Scene, opened
from tests.test_jobs import job, request

server = test_jobs.server
SERVERS = list(test_jobs.SERVERS)
LOOKS = times(150, 2_000)
MOST_WORKERS = 16
MOST_WAITED = 200
CHANGE_S, LOOK_S, LEASE_S = 0.1, 0.02, 0.3
DRAIN_S = 30.0
"""How long the rest may take, on a slow machine too; it takes a lease or two."""


class Submitter:
    """Submits requests of 1 to 4 jobs until told to stop, and collects until each job has its answer."""

    def __init__(self, api_id: str, luck: random.Random) -> None:
        self._id = api_id
        self._luck = luck
        self._waited: set[str] = set()
        self.accepted = 0
        self.answered: list[str] = []

    async def run(self, queue: JobQueue, stopping: asyncio.Event) -> None:
        while self._waited or not stopping.is_set():
            if len(self._waited) < MOST_WAITED and not stopping.is_set():
                await self._submit(queue)
            await self._collect(queue)

    async def _submit(self, queue: JobQueue) -> None:
        jobs = tuple(job() for _ in range(self._luck.randint(1, 4)))
        _depth, admissions = await queue.submit(
            [request(*jobs, remaining_s=300)],
            api_id=self._id,
            max_queue_depth=1_000,
            max_results=1_000,
            max_batch_size=8,
            batch_s=0.0,
        )
        assert admissions == [Admission("accepted")]
        self._waited |= {one.uuid for one in jobs}
        self.accepted += len(jobs)

    async def _collect(self, queue: JobQueue) -> None:
        uuids = [read_result(token).uuid for token in await queue.listen(self._id, 0.01)]
        self.answered += uuids
        self._waited -= set(uuids)
        if uuids:
            await queue.drop(uuids)


class Crew:
    """Workers that come and go; one that dies holds jobs perhaps, and says no word to Redis."""

    def __init__(self, queue_url: str, queue_name: str, luck: random.Random) -> None:
        self._url = queue_url
        self._name = queue_name
        self._luck = luck
        self._leaving: dict[asyncio.Task[None], asyncio.Event] = {}
        self._all: dict[asyncio.Task[None], asyncio.Event] = {}
        self.joined = self.left = self.died = 0

    async def change(self, stopping: asyncio.Event) -> None:
        """Be another number of workers every 100 ms; in the end one, until cancelled."""
        while True:
            self._become(1 if stopping.is_set() else self._luck.randint(1, MOST_WORKERS))
            await asyncio.sleep(CHANGE_S)

    async def disband(self) -> None:
        """Let all leave; raise what any of them raised.

        Before Python 3.12 asyncio.wait_for swallows a cancellation that comes with its outcome, and redis-py uses it:
        such a one lives until it leaves.
        """
        for leaving in self._all.values():
            leaving.set()
        for outcome in await asyncio.gather(*self._all, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def _become(self, number: int) -> None:
        while len(self._leaving) > number:
            task, leaving = self._leaving.popitem()
            if self._luck.random() < 0.5:
                self.died += task.cancel()
            else:
                leaving.set()
                self.left += 1
        while len(self._leaving) < number:
            leaving = asyncio.Event()
            task = asyncio.create_task(self._work(f"worker-{self.joined}", leaving))
            self._leaving[task] = self._all[task] = leaving
            self.joined += 1

    async def _work(self, worker_id: str, leaving: asyncio.Event) -> None:
        async with open_queue(self._url, self._name) as queue:
            block_s = 0.0
            while not leaving.is_set():
                await self._beat(queue, worker_id, "idle")
                claim = await queue.claim(
                    uuid4().hex,
                    worker_id=worker_id,
                    max_batch_size=8,
                    lease_s=LEASE_S,
                    least_s=0.0,
                    max_solo=1_000_000,
                    max_wait_s=0.0,
                    block_s=block_s,
                )
                block_s = min(claim.block_s, CHANGE_S)
                await self._serve(queue, worker_id, claim)
            await self._beat(queue, worker_id, "gone")

    async def _serve(self, queue: JobQueue, worker_id: str, claim: Claim) -> None:
        """Take some milliseconds, seldom longer than the lease; answer most jobs and give some back."""
        if not claim.jobs:
            return
        await asyncio.sleep(self._luck.choice([0.002] * 50 + [2 * LEASE_S]))
        await self._beat(queue, worker_id, "busy", claim)
        value = prediction_value(worker_id, Timing())
        settlements = [
            Settlement(one.uuid, one.api_id, "release", b"")
            if self._luck.random() < 0.1
            else Settlement(one.uuid, one.api_id, "ok", value)
            for one in claim.jobs
        ]
        await queue.settle(claim.id, settlements, result_ttl_s=60)

    @staticmethod
    async def _beat(queue: JobQueue, worker_id: str, state: WorkerState, claim: Claim | None = None) -> None:
        worker = Worker(worker_id, state, 0.0, None, 0.0, "digits")
        uuids = [one.uuid for one in claim.jobs] if claim else []
        await queue.beat(worker, lease_s=LEASE_S, held={claim.id if claim else "-": uuids})


@asynccontextmanager
async def open_queue(url: str, name: str) -> AsyncIterator[JobQueue]:
    queue = JobQueue(url, name=name, timeout_s=10)
    try:
        yield queue
    finally:
        await queue.close()


async def look_again_and_again(scene: Scene) -> list[str]:
    """Return all violations of LOOKS looks."""
    violations: list[str] = []
    for _ in range(LOOKS):
        violations += await scene.queue.audit()
        await asyncio.sleep(LOOK_S)
    return violations


async def lasting_keys_of_an_idle_queue(scene: Scene) -> set[str]:
    await scene.claim()
    return await scene.keys_without_ttl()


async def has_ended(tasks: list[asyncio.Task[None]]) -> bool:
    end_s = time.monotonic() + DRAIN_S
    while not all(task.done() for task in tasks) and time.monotonic() < end_s:
        await asyncio.sleep(LOOK_S)
    return all(task.done() for task in tasks)


@pytest.mark.chaos
@pytest.mark.parametrize("server", SERVERS if LONG else SERVERS[-1:], indirect=True)
async def test_the_queue_is_whole_while_workers_come_and_go_and_each_job_is_settled_once(server: str) -> None:
    async with opened(server) as scene:
        await scene.answer(claim := await scene.take(), "warm")
        await scene.queue.drop([one.uuid for one in claim.jobs])
        await scene.beat()
        idle_keys = await lasting_keys_of_an_idle_queue(scene)
        luck, stopping = random.Random(SEED), asyncio.Event()  # noqa: S311  # to be repeated, not to be secret
        submitters, crew = [Submitter(api_id, luck) for api_id in ("api-1", "api-2")], Crew(server, scene.name, luck)

        async with open_queue(server, scene.name) as one, open_queue(server, scene.name) as two:
            running = [
                asyncio.create_task(submitter.run(queue, stopping))
                for submitter, queue in zip(submitters, (one, two), strict=True)
            ]
            changing = asyncio.create_task(crew.change(stopping))
            violations = await look_again_and_again(scene)
            stopping.set()
            drained = await has_ended(running)
            changing.cancel()
            await crew.disband()

        answered = [uuid for submitter in submitters for uuid in submitter.answered]
        accepted = sum(submitter.accepted for submitter in submitters)
        assert violations == []
        assert drained, f"of {accepted} jobs {accepted - len(set(answered))} were not answered"
        assert len(answered) == len(set(answered)) == accepted
        assert int(await scene.ask("HGET stats", "settled")) == accepted + 1
        assert await scene.ask("EXISTS results") == 0
        assert await lasting_keys_of_an_idle_queue(scene) == idle_keys
