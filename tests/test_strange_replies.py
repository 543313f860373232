"""Replies that are another command's, another connection's, or no RESP at all: never answered, and no lasting harm."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from redis.asyncio import Redis

from tests.fault_proxy import FaultProxy
from tests.faults import DROP, SHIFT, SWAP, Fault, Order, rewrite
from tests.fleet import until
from tests.questions import Sums
from tests.scale import SEED, times
from tests.stack import ROOT, Stack, until_ready

COMMANDS = ("SUBMIT", "LISTEN", "LPOP", "BLPOP", "CLAIM", "SETTLE", "DROP", "POLL", "BEAT", "TIME", "HGETALL", "INFO")
NONSENSE = Fault(lambda _own, _foreign: b"HTTP/1.1 400 Bad Request\r\n\r\n")
FAULTS = {
    "the same command's": (SWAP, ""),
    "a list of jobs": (SWAP, "CLAIM"),
    "a list of numbers": (SWAP, "DROP"),
    "one too many": (SHIFT, "POLL"),
    "no RESP": (NONSENSE, ""),
}
MAY_BE = {200, 404, 429, 500, 503, 504}
"""What a request may come to while replies go astray: its own prediction, or no prediction."""
HEALED_S = 10.0

pytestmark = pytest.mark.chaos


@dataclass
class Desk:
    """Two apis and two batchers behind a proxy."""

    proxy: FaultProxy
    clients: list[httpx.AsyncClient]
    redis: Redis
    sums: Sums = field(default_factory=Sums)

    async def ask(self, number: int) -> int:
        """Ask, every third time for later; return the status. A prediction must be the right one."""
        question, client = self.sums(1), self.clients[number % 2]
        headers = {"Content-Type": question.content_type, "Prefer": "wait=3" if number % 3 else "respond-async"}
        answer = await client.post("/predict", content=question.body, headers=headers)
        if answer.status_code == 202:
            answer = await self._collect(client, answer.headers["location"])
        if answer.status_code == 200:
            assert answer.json()["predictions"] == question.right, f"SEED={SEED}"
        return answer.status_code

    async def ask_until(self, order: Order, within_s: float) -> None:
        """Keep asking until an order is carried out."""
        end_s = time.monotonic() + within_s
        while order.left:
            statuses = await asyncio.gather(*(self.ask(number) for number in range(6)))

            assert set(statuses) <= MAY_BE, f"SEED={SEED}"
            assert time.monotonic() < end_s, f"{order.command} was not sent often enough"

    async def heal(self) -> None:
        """Stop all faults; both apis must serve again soon."""
        self.proxy.withdraw()

        async def serve() -> bool:
            return [await self.ask(number) for number in (4, 5)] == [200, 200]

        await until("both apis serve again", serve, within_s=HEALED_S)

    async def _collect(self, client: httpx.AsyncClient, place: str) -> httpx.Response:
        end_s = time.monotonic() + 3
        while (answer := await client.get(place)).status_code in (202, 503) and time.monotonic() < end_s:
            await asyncio.sleep(0.005)
        return httpx.Response(504) if answer.status_code == 202 else answer


@pytest.fixture
def supervised(stack: Stack) -> Iterator[dict[str, str]]:
    """Yield the settings of two batchers that are started again when they leave, as whoever runs them does."""
    settings = {"REDIS_URL": f"unix://{stack.folder}/proxy.sock", "MICROBATCH_LOG_LEVEL": "error"}
    model = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_LEASE_S": "1", "MICROBATCH_MAX_SOLO": "1000"}
    loop = f"while true; do {sys.executable} batcher.py; sleep 0.1; done"
    environment = stack.environment(**settings, **model)
    shells = [
        subprocess.Popen(["/bin/sh", "-c", loop], cwd=ROOT, env=environment, start_new_session=True) for _ in range(2)
    ]
    yield settings
    for shell in shells:
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()


@pytest.fixture
async def desk(stack: Stack, supervised: dict[str, str]) -> AsyncIterator[Desk]:
    stack.start_redis()
    server, door = stack.folder / "redis.sock", stack.folder / "proxy.sock"
    with FaultProxy(door, server, seed=SEED) as proxy:
        sockets = [f"{stack.folder}/{name}.sock" for name in "ab"]
        for socket in sockets:
            stack.start_api_at(socket, **supervised)
        transports = [httpx.AsyncHTTPTransport(uds=socket) for socket in sockets]
        async with (
            httpx.AsyncClient(transport=transports[0], base_url="http://a", timeout=30) as one,
            httpx.AsyncClient(transport=transports[1], base_url="http://b", timeout=30) as other,
            Redis(unix_socket_path=str(server)) as redis,
        ):
            for client in (one, other):
                await until_ready(client)
            yield Desk(proxy, [one, other], redis)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_strange_reply_to_any_command_is_never_answered_and_the_service_heals(
    desk: Desk, fault: tuple[Fault, str]
) -> None:
    kind, donor = fault
    await asyncio.gather(*(desk.ask(number) for number in range(20)))
    before = len(await desk.redis.client_list())
    for command in COMMANDS:
        order = desk.proxy.order(command, kind, times=times(1, 100), donor=donor)
        if command == "INFO":  # sent where something failed before
            desk.proxy.order("HGETALL", DROP, times=times(8, 800))
        await desk.ask_until(order, within_s=times(20, 1200))
        await desk.heal()

    async def no_more_connections() -> bool:
        return len(await desk.redis.client_list()) <= before + 8  # of 2 x 2 processes, each at its own moment

    await until("no connection is leaked", no_more_connections)


async def test_a_redis_that_is_too_old_is_refused_by_both_processes(stack: Stack) -> None:
    stack.start_redis()
    server, door = stack.folder / "redis.sock", stack.folder / "proxy.sock"
    with FaultProxy(door, server, seed=SEED) as proxy:
        proxy.order("INFO", rewrite(b"redis_version:", b"redis_version:6.0.9\r\nof_old:"), times=1_000_000)
        url = {"REDIS_URL": f"unix://{door}"}
        stack.start_api(**url)
        batcher = stack.environment(**url)
        async with stack.client() as client:

            async def explained() -> bool:
                return "Redis 6.0.9 is too old: 6.2 or later is needed" in (await client.get("/health/ready")).text

            await until_ready(client, 503)
            await until("the api says why", explained)
        left = await asyncio.create_subprocess_exec(
            sys.executable, "batcher.py", cwd=ROOT, env=batcher, stderr=asyncio.subprocess.PIPE
        )
        _, said = await left.communicate()

    assert left.returncode == 1
    assert said.decode().splitlines()[-1] == "batcher: Redis 6.0.9 is too old: 6.2 or later is needed"
