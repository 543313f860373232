"""A reply that is lost, cut, or comes of a command carried out twice changes nothing, whichever command it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest

from jobs import JobQueue
from tests.fault_proxy import FaultProxy
from tests.faults import CUT, DROP, REPEAT, SHIFT, SWAP, Fault
from tests.scale import SEED, times
from tests.stack import Stack, npy, until_ready

NPY = {"Content-Type": "application/x-npy"}
SHAPE = (160, 160, 3)  # longer than what a claim hands over itself
ANSWERED_S = 30.0
"""The deadline of a request that waits; none may be later, however many replies are lost."""
CLIENTS = 8
FAULTS = {"dropped": DROP, "cut": CUT, "repeated": REPEAT}
AT_EACH_REQUEST = ("SUBMIT", "LISTEN", "LPOP", "BLPOP", "CLAIM", "HGET", "SETTLE", "DROP", "POLL")
NOW_AND_THEN = ("BEAT", "TIME", "HGETALL")


@dataclass
class Line:
    """The service behind a proxy, and a way past it."""

    proxy: FaultProxy
    client: httpx.AsyncClient
    queue: JobQueue
    asked: int = 0

    async def ask_until_answered(self) -> None:
        """Ask with an image of its own, again where refused, and look whether the answer is its own."""
        self.asked = number = self.asked + 1
        tensor = np.zeros(SHAPE, np.uint8)
        tensor.flat[: number % 60_000] = 1
        end_s = time.monotonic() + ANSWERED_S
        while True:
            answer = await self._ask(npy(tensor), later=number % 2 == 0)
            if answer.status_code == 200:
                assert answer.json()["predictions"] == [{"sum": number % 60_000}]
                return
            assert answer.status_code == 503 or answer.json()["code"] == "internal_error", (
                answer.text
            )  # mixed up, and seen
            assert time.monotonic() < end_s, answer.text
            await asyncio.sleep(0.01)

    async def _ask(self, body: bytes, *, later: bool) -> httpx.Response:
        """Ask and wait, or ask for later and collect: that polls."""
        if not later:
            return await self.client.post("/predict", content=body, headers=NPY)
        answer = await self.client.post("/predict", content=body, headers=NPY | {"Prefer": "respond-async"})
        if answer.status_code != 202:
            return answer
        place, end_s = answer.headers["location"], time.monotonic() + ANSWERED_S
        while answer.status_code in (202, 503):
            assert time.monotonic() < end_s, "the result never came"
            await asyncio.sleep(0.01)
            answer = await self.client.get(place)
        await self.client.delete(place)
        return answer

    async def until_empty(self) -> None:
        """Wait until no job is unfinished."""
        end_s = time.monotonic() + ANSWERED_S
        while await self.queue.depth():
            assert time.monotonic() < end_s, "a job is stranded"
            await asyncio.sleep(0.01)
        assert await self.queue.audit() == []


@pytest.fixture
async def line(stack: Stack) -> AsyncIterator[Line]:
    stack.start_redis()
    server, door = stack.folder / "redis.sock", stack.folder / "proxy.sock"
    queue = JobQueue(f"unix://{server}", name="default", timeout_s=2)
    with FaultProxy(door, server, seed=SEED) as proxy:
        settings = {"REDIS_URL": f"unix://{door}", "MICROBATCH_LEASE_S": "1", "MICROBATCH_LOG_LEVEL": "error"}
        model = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_INPUT_SHAPE": ",".join(map(str, SHAPE))}
        stack.start_batcher(**settings, **model)
        stack.start_api(**settings)
        async with stack.client() as client:
            await until_ready(client)
            yield Line(proxy, client, queue)
    await queue.close()


@pytest.mark.chaos
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_lost_or_repeated_reply_of_any_command_is_harmless(line: Line, fault: Fault) -> None:
    orders = [line.proxy.order(one, fault, times=times(30, 1_000), chance=0.2) for one in AT_EACH_REQUEST]
    orders += [line.proxy.order(one, fault, times=times(6, 200), chance=0.5) for one in NOW_AND_THEN]

    async def ask() -> None:
        while any(order.left for order in orders):
            await line.ask_until_answered()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(ask())

    await line.until_empty()


@pytest.mark.chaos
async def test_a_reply_that_reaches_the_wrong_reader_is_never_answered(line: Line) -> None:
    for command in ("POLL", "LISTEN", "LPOP", "HGET"):
        for fault in (SWAP, SHIFT):
            line.proxy.order(command, fault, times=times(3, 1_000), chance=0.3)
            for _ in range(times(10, 3_000)):
                await line.ask_until_answered()
            line.proxy.withdraw()
            line.proxy.cut_all()

    await line.until_empty()
