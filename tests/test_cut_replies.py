"""Connections to Redis that are lost now and then: a lost one costs a second try, not the service of others."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.fault_proxy import FaultProxy
from tests.faults import CUT
from tests.scale import SEED
from tests.stack import Stack, until_ready
from tests.test_redis_faults import MODEL, ask

COMMANDS = ("SUBMIT", "EXEC", "CLAIM", "SETTLE", "BEAT", "POLL", "DROP", "COUNT", "LISTEN", "TIME", "HGETALL", "INFO")
REQUESTS = 400
CLIENTS = 8
LEAST_STRUCK = 40


@pytest.mark.parametrize("part", [0.05])
async def test_a_lost_connection_refuses_nobody_else(stack: Stack, part: float) -> None:
    stack.start_redis()
    door = stack.folder / "proxy.sock"
    with FaultProxy(door, stack.folder / "redis.sock", seed=SEED) as proxy:
        url = {"REDIS_URL": f"unix://{door}", "MICROBATCH_LOG_LEVEL": "error"}
        stack.start_batcher(**MODEL, **url)
        stack.start_api(**url)
        async with stack.client() as client:
            await until_ready(client)
            orders = [proxy.order(command, CUT, times=1_000_000, chance=part) for command in COMMANDS]
            statuses: list[int] = []
            struck = 0
            while struck < LEAST_STRUCK:
                statuses += await asked(client)
                struck = sum(1_000_000 - order.left for order in orders)
                assert len(statuses) < 10 * REQUESTS, "too few replies are cut"
            proxy.withdraw()
            print(f"{struck} replies cut, {statuses.count(503)} of {len(statuses)} refused")  # noqa: T201  # shown by -rP

            assert set(statuses) <= {200, 503}
            assert statuses.count(503) <= 0.02 * len(statuses)
            assert (await ask(client, 7)).status_code == 200


async def asked(client: httpx.AsyncClient) -> list[int]:
    """Ask as several clients, one request after the other; return all statuses."""
    numbers = iter(range(REQUESTS))
    statuses: list[int] = []

    async def one_client() -> None:
        for number in numbers:
            statuses.append((await ask(client, number)).status_code)  # noqa: PERF401  # all clients share it

    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    return statuses
