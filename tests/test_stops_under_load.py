"""Apis that are stopped under a load of new connections, alone and behind a load balancer."""

from __future__ import annotations

import asyncio
import signal
import subprocess

import httpx
import pytest

from tests.balancer import Balancer
from tests.connections import Outcomes, load, post
from tests.fleet import until
from tests.questions import Sums
from tests.stack import Stack, until_ready
from tools.service import free_port

pytestmark = pytest.mark.long

SETTINGS = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_LOG_LEVEL": "error"}
REQUESTS = 3000
WARM = 300
"""Requests answered before an api is told to stop."""
DELAY_S = 1.0


@pytest.fixture
def queue(stack: Stack) -> Stack:
    """Redis and a batcher; each test starts its apis."""
    stack.start_redis()
    stack.start_batcher(**SETTINGS)
    return stack


async def start_api(stack: Stack, port: int, **settings: str) -> subprocess.Popen[bytes]:
    process = stack.start_api_on(port, **SETTINGS, **settings)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        await until_ready(client)
    return process


async def stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return await asyncio.to_thread(process.wait, 30)


async def has_answered(outcomes: Outcomes, count: int) -> bool:
    return outcomes.answered >= count


@pytest.mark.parametrize("clients", [32, 200])
async def test_an_api_alone_cuts_at_most_one_connection_in_a_thousand(queue: Stack, clients: int) -> None:
    total, codes, question = Outcomes(), set(), Sums()(1)
    while total.answered < REQUESTS:
        port, outcomes, stopping = free_port(), Outcomes(), asyncio.Event()
        process = await start_api(queue, port)
        request = post(port, question.body, question.content_type)
        asking = asyncio.create_task(load(request, outcomes, stopping, clients=clients))
        await until("there is load", lambda: has_answered(outcomes, WARM))  # noqa: B023  # awaited here
        codes.add(await stop(process))
        stopping.set()
        await asking
        total.statuses += outcomes.statuses
        total.cut += outcomes.cut

    assert codes == {0}
    assert total.statuses.keys() == {200}
    assert total.cut.total() <= total.answered / 1000, total


async def test_apis_restarted_in_turn_behind_a_balancer_fail_no_request(queue: Stack) -> None:
    ports, question = [free_port(), free_port()], Sums()(1)
    delay = {"MICROBATCH_DRAIN_DELAY_S": str(DELAY_S)}
    processes = [await start_api(queue, port, **delay) for port in ports]
    balancer, outcomes, stopping = Balancer(ports), Outcomes(), asyncio.Event()
    async with balancer.listening() as front:
        await until("both are up", lambda: are_up(balancer, ports))
        request = post(front, question.body, question.content_type)
        asking = asyncio.create_task(load(request, outcomes, stopping))
        codes = []
        for turn in range(4):
            answered = outcomes.answered + WARM
            await until("there is load", lambda: has_answered(outcomes, answered))  # noqa: B023  # awaited here
            codes.append(await stop(processes[turn % 2]))
            processes[turn % 2] = await start_api(queue, ports[turn % 2], **delay)
            await until("both are up", lambda: are_up(balancer, ports))
        stopping.set()
        await asking

    assert codes == [0] * 4
    assert outcomes.answered > REQUESTS
    assert balancer.reused > outcomes.answered / 2
    assert balancer.failures == {}
    assert outcomes.statuses.keys() == {200}
    assert not outcomes.cut


async def are_up(balancer: Balancer, ports: list[int]) -> bool:
    return balancer.up == set(ports)
