"""Idempotency-Key: a request that is sent again runs once and is answered alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing

import httpx
import numpy as np
import pytest
from redis import Redis

from errors import BadRequest
from prefer import read_key
from tests.stack import Stack, npy, until_ready

BODY = npy(np.full((32, 32, 3), 7, np.uint8))
OTHER = npy(np.full((32, 32, 3), 8, np.uint8))


def headers(key: str, prefer: str = "") -> dict[str, str]:
    return {"Content-Type": "application/x-npy", "Idempotency-Key": key, "Prefer": prefer}


@pytest.fixture
async def two(stack: Stack) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Yield clients of two apis that share a slow batcher."""
    stack.start_redis()
    stack.start_batcher(MICROBATCH_MODEL="simulated", MICROBATCH_SIMULATED_BATCH_S="0.3")
    ports = [f"{stack.folder}/{name}.sock" for name in "ab"]
    for port in ports:
        stack.start_api_at(port)
    transports = [httpx.AsyncHTTPTransport(uds=port) for port in ports]
    async with (
        httpx.AsyncClient(transport=transports[0], base_url="http://a", timeout=20) as one,
        httpx.AsyncClient(transport=transports[1], base_url="http://b", timeout=20) as other,
    ):
        await until_ready(one)
        await until_ready(other)
        yield one, other


async def test_the_same_key_runs_once_and_is_answered_alike_by_any_api(
    two: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    answers = await asyncio.gather(*(api.post("/predict", content=BODY, headers=headers("k")) for api in (*two, *two)))
    later = await two[1].post("/predict", content=BODY, headers=headers('"k"'))

    bodies = {answer.text for answer in (*answers, later)}
    batches = {answer.headers["microbatch-batch-size"] for answer in (*answers, later)}
    assert [answer.status_code for answer in (*answers, later)] == [200] * 5
    assert len(bodies) == 1
    assert batches == {"1"}
    assert max(answer.elapsed.total_seconds() for answer in (*answers, later)) < 5  # none waits for its deadline


async def test_the_same_key_with_another_body_is_refused(two: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
    await two[0].post("/predict", content=BODY, headers=headers("k"))

    answer = await two[1].post("/predict", content=OTHER, headers=headers("k"))

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_client_that_lost_its_connection_finds_the_answer(
    stack: Stack, two: tuple[httpx.AsyncClient, httpx.AsyncClient]
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await two[0].post("/predict", content=BODY, headers=headers("k"), timeout=0.1)

    answer = await two[1].post("/predict", content=BODY, headers=headers("k"))

    assert answer.json()["predictions"] == [{"sum": 7 * 32 * 32 * 3}]
    with closing(Redis(unix_socket_path=f"{stack.folder}/redis.sock")) as redis:
        (stats,) = redis.keys("*:stats")
        assert redis.hget(stats, "claimed") == b"1"  # it ran once
    assert answer.elapsed.total_seconds() < 0.5


async def test_what_another_try_may_mend_is_run_anew(two: tuple[httpx.AsyncClient, httpx.AsyncClient]) -> None:
    late = await two[0].post("/predict", content=BODY, headers=headers("k", "wait=0"))

    answer = await two[0].post("/predict", content=BODY, headers=headers("k"))

    assert [late.status_code, answer.status_code] == [504, 200]


@pytest.mark.parametrize("key", ["", '""', "x" * 256, "é", "a\tb"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(BadRequest):
        read_key(key)
