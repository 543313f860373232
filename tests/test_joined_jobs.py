"""One Idempotency-Key used with a wait and with respond-async: what a 202 promised is kept, whoever else gives up."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from uuid import uuid4

import httpx
import numpy as np
import pytest
from redis import Redis

from tests.stack import Stack, npy, until_in_flight, until_ready

BODY = npy(np.full((32, 32, 3), 7, np.uint8))
RIGHT = [{"sum": 7 * 32 * 32 * 3}]
BATCH_S = 1.2


@dataclass
class Pair:
    """Two apis, and the batcher that they share; each test has a key of its own."""

    apis: list[httpx.AsyncClient]
    batcher: subprocess.Popen[bytes]
    redis: Redis
    key: str = field(default_factory=lambda: uuid4().hex)
    claimed_before: int = 0

    async def ask(self, api: int, prefer: str, *, timeout_s: float = 20) -> httpx.Response:
        headers = {"Content-Type": "application/x-npy", "Idempotency-Key": self.key, "Prefer": prefer}
        return await self.apis[api].post("/predict", content=BODY, headers=headers, timeout=timeout_s)

    async def collect(self, answer: httpx.Response, within_s: float = 10) -> httpx.Response:
        """Look at the result of a request until it is there."""
        assert answer.status_code == 202
        end_s = time.monotonic() + within_s
        while (found := await self.apis[1].get(answer.headers["location"])).status_code == 202:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.02)
        return found

    async def until_depth(self, depth: int) -> None:
        end_s = time.monotonic() + 10
        while self.redis.zcard("{mb:default}:deadlines") != depth:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.01)

    def claimed(self) -> int:
        """Return how many jobs were claimed since the test began."""
        return int(self.redis.hget("{mb:default}:stats", "claimed") or 0) - self.claimed_before


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, subprocess.Popen[bytes]]]:
    """Start Redis, two apis and a batcher for all tests of this file."""
    stack = Stack(tmp_path_factory.mktemp("joined"))
    stack.start_redis()
    model = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_SIMULATED_BATCH_S": str(BATCH_S), "MICROBATCH_LEASE_S": "1"}
    batcher = stack.start_batcher(**model)
    for name in "ab":
        stack.start_api_at(f"{stack.folder}/{name}.sock")
    yield stack, batcher
    stack.kill()


@pytest.fixture
async def pair(service: tuple[Stack, subprocess.Popen[bytes]]) -> AsyncIterator[Pair]:
    stack, batcher = service
    transports = [httpx.AsyncHTTPTransport(uds=f"{stack.folder}/{name}.sock") for name in "ab"]
    apis = [httpx.AsyncClient(transport=transport, base_url="http://service") for transport in transports]
    for api in apis:
        await until_ready(api)
    with closing(Redis(unix_socket_path=f"{stack.folder}/redis.sock")) as redis:
        opened = Pair(apis, batcher, redis)
        await opened.until_depth(0)
        opened.claimed_before = opened.claimed()
        yield opened
    for api in apis:
        await api.aclose()


async def test_who_waited_first_and_gives_up_leaves_the_job_to_who_was_promised_it(pair: Pair) -> None:
    waiting = asyncio.create_task(pair.ask(0, "wait=1"))
    await until_in_flight(pair.apis[0], 1)
    promised = await pair.ask(1, "respond-async")

    assert (await waiting).status_code == 504
    found = await pair.collect(promised)
    assert (found.status_code, found.json()["predictions"]) == (200, RIGHT)
    assert pair.claimed() == 1


async def test_who_waits_later_and_gives_up_leaves_the_job_to_who_was_promised_it(pair: Pair) -> None:
    promised = await pair.ask(0, "respond-async")
    late = await pair.ask(1, "wait=0")

    assert late.status_code == 504
    found = await pair.collect(promised)
    assert (found.status_code, found.json()["predictions"]) == (200, RIGHT)
    assert pair.claimed() == 1


async def test_who_waits_and_goes_away_leaves_the_job_to_who_was_promised_it(pair: Pair) -> None:
    promised = await pair.ask(0, "respond-async")
    with pytest.raises(httpx.ReadTimeout):
        await pair.ask(0, "", timeout_s=0.1)

    assert (await pair.collect(promised)).json()["predictions"] == RIGHT


@pytest.mark.parametrize("first", ["wait=0", "respond-async"])
async def test_a_joined_job_has_the_later_one_of_its_deadlines(pair: Pair, first: str) -> None:
    # given: a batcher that has claimed the job, and does nothing until the short deadline is over
    pair.batcher.send_signal(signal.SIGSTOP)
    asked = asyncio.create_task(pair.ask(0, first))
    await pair.until_depth(1)
    other = await pair.ask(1, "wait=0" if first == "respond-async" else "respond-async")
    answers = {answer.status_code: answer for answer in (await asked, other)}

    pair.batcher.send_signal(signal.SIGCONT)
    found = await pair.collect(answers[202])

    assert answers.keys() == {202, 504}
    assert (found.status_code, found.json()["predictions"]) == (200, RIGHT)


async def test_a_kept_result_that_came_in_time_is_there_for_who_asks_again(pair: Pair) -> None:
    answer = await pair.ask(0, "respond-async, wait=5")

    again = await pair.ask(1, "")
    collected = await pair.apis[1].get(f"/results/{answer.json()['id']}")

    assert [answer.status_code, again.status_code, collected.status_code] == [200] * 3
    assert answer.json() == again.json() == collected.json()
    assert pair.claimed() == 1


async def test_a_retry_after_a_late_answer_gets_its_own_time(pair: Pair) -> None:
    late = await pair.ask(0, "wait=0")
    promised = await pair.ask(1, "respond-async")

    assert late.status_code == 504
    assert (await pair.collect(promised)).json()["predictions"] == RIGHT


async def test_a_job_that_is_cancelled_is_so_for_all_and_is_not_submitted_again(pair: Pair) -> None:
    promised = await pair.ask(0, "respond-async")
    waiting = asyncio.create_task(pair.ask(1, ""))
    await until_in_flight(pair.apis[0], 1)
    began_s = time.monotonic()
    deleted = await pair.apis[0].delete(promised.headers["location"])
    told = await waiting
    took_s = time.monotonic() - began_s

    assert (deleted.status_code, told.status_code, told.json()["code"]) == (204, 404, "not_found")
    assert took_s < BATCH_S
    assert (await pair.apis[0].get(promised.headers["location"])).status_code == 404
    assert pair.claimed() == 1
    assert (await pair.ask(1, "")).json()["predictions"] == RIGHT, "who asks anew has it run"
