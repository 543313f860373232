"""Redis that dies, stalls, fills up or changes its role under the running service."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.scale import times
from tests.stack import ROOT, Stack, npy, until_ready

NPY = {"Content-Type": "application/x-npy"}
MODEL = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_SIMULATED_BATCH_S": "0.02", "MICROBATCH_LEASE_S": "1"}


async def ask(client: httpx.AsyncClient, number: int, **headers: str) -> httpx.Response:
    """Ask with an image whose sum tells it apart."""
    tensor = np.zeros((32, 32, 3), np.uint8)
    tensor.flat[: number % 3000] = 1
    answer = await client.post("/predict", content=npy(tensor), headers=NPY | headers)
    if answer.status_code == 200:
        assert answer.json()["predictions"] == [{"sum": number % 3000}]
    return answer


async def start(stack: Stack, client: httpx.AsyncClient, **settings: str) -> None:
    stack.start_batcher(**MODEL)
    stack.start_api(**settings)
    await until_ready(client)


async def until(reached: Callable[[], Awaitable[bool]], within_s: float) -> float:
    """Wait for a state; return how long it took."""
    started_s = time.monotonic()
    while not await reached():
        assert time.monotonic() - started_s < within_s
        await asyncio.sleep(0.01)
    return time.monotonic() - started_s


def open_files(process: subprocess.Popen[bytes]) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


@pytest.mark.chaos
async def test_requests_that_wait_survive_a_redis_that_is_killed_and_comes_back_empty(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    server = stack.start_redis()
    await start(stack, client)
    for _ in range(times(1, 3)):
        # given: requests that were submitted
        redis = Redis(unix_socket_path=str(stack.folder / "redis.sock"))
        count = times(200, 667)
        before = await submitted(redis)  # some by the api again, after the last time
        waiting = [asyncio.create_task(ask(client, number)) for number in range(count)]
        await until(lambda: has_submitted(redis, before + count), 30)  # noqa: B023  # awaited in this turn
        await redis.aclose()

        # when: it is killed, and away for half a second
        server.kill()
        server.wait()
        refused, refused_s = [], []
        for number in range(20):
            began_s = time.monotonic()
            refused.append((await ask(client, number)).status_code)
            refused_s.append(time.monotonic() - began_s)
        (stack.folder / "redis.sock").unlink()
        server = stack.start_redis()
        answers = await asyncio.gather(*waiting)
        await until_ready(client)

        # then
        assert [answer.status_code for answer in answers] == [200] * count
        assert set(refused[1:]) == {503}
        assert sorted(refused_s)[10] < 0.05


async def submitted(redis: Redis) -> int:
    return int(await redis.hget("{mb:default}:stats", "submitted") or 0)


async def has_submitted(redis: Redis, count: int) -> bool:
    return await submitted(redis) >= count


async def test_the_service_heals_within_a_second_of_a_restart(stack: Stack, client: httpx.AsyncClient) -> None:
    server = stack.start_redis()
    await start(stack, client)
    server.kill()
    server.wait()
    await until_ready(client, 503)
    (stack.folder / "redis.sock").unlink()
    stack.start_redis()
    await until(lambda: answers_ping(stack), 5)

    async def served() -> bool:
        return (await ask(client, 5)).status_code == 200

    assert await until(served, 5) < 1.5


async def answers_ping(stack: Stack) -> bool:
    redis = Redis(unix_socket_path=str(stack.folder / "redis.sock"))
    try:
        return bool(await redis.ping())
    except (OSError, RedisConnectionError):
        return False
    finally:
        await redis.aclose()


@pytest.mark.chaos
async def test_killed_connections_cost_nothing_and_leak_nothing(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    batcher = stack.start_batcher(**MODEL)
    api = stack.start_api()
    await until_ready(client)
    await asyncio.gather(*(ask(client, number) for number in range(100)))
    redis = Redis(unix_socket_path=str(stack.folder / "redis.sock"))
    before = open_files(api), open_files(batcher)

    statuses = []
    for number in range(times(20, 500)):
        waiting = [asyncio.create_task(ask(client, number)) for _ in range(10)]
        await asyncio.sleep(0.01)
        await redis.client_kill_filter(_type="normal", skipme=True)
        statuses += [answer.status_code for answer in await asyncio.gather(*waiting)]
        await until_ready(client)

    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 0.5 * len(statuses)
    await until(lambda: few_files(api, before[0] + 5), 5)
    await until(lambda: few_files(batcher, before[1] + 5), 5)
    await redis.aclose()


async def few_files(process: subprocess.Popen[bytes], most: int) -> bool:
    return open_files(process) <= most


@pytest.mark.chaos
async def test_a_stalled_redis_holds_nobody_past_the_deadline(stack: Stack, client: httpx.AsyncClient) -> None:
    server = stack.start_redis()
    await start(stack, client)
    server.send_signal(signal.SIGSTOP)
    began_s = time.monotonic()

    late = await asyncio.gather(*(ask(client, number, Prefer="wait=1") for number in range(20)))
    late_s = time.monotonic() - began_s
    server.send_signal(signal.SIGCONT)
    await until_ready(client)

    assert {answer.status_code for answer in late} <= {503, 504}
    assert late_s < 2.5  # of a wait of 1 s, on a machine that may be busy
    assert (await ask(client, 7)).status_code == 200


async def is_answered(client: httpx.AsyncClient, place: str) -> bool:
    return (await client.get(place)).status_code == 200


async def calls_of_submit(redis: Redis) -> int:
    stats = await redis.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("exec",))


async def test_a_full_redis_refuses_new_jobs_and_finishes_the_old_ones(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    await start(stack, client)
    redis = Redis(unix_socket_path=str(stack.folder / "redis.sock"))
    waiting = [asyncio.create_task(ask(client, number)) for number in range(100)]
    await until(lambda: has_submitted(redis, 100), 30)

    headers = NPY | {"Prefer": "respond-async"}
    kept = [await client.post("/predict", content=npy(np.ones((32, 32, 3), np.uint8)), headers=headers) for _ in "ab"]
    await until(lambda: is_answered(client, kept[0].headers["location"]), 5)
    await until(lambda: is_answered(client, kept[1].headers["location"]), 5)
    await redis.config_set("maxmemory", 1)
    before = await calls_of_submit(redis)
    refused = [await ask(client, 1) for _ in range(20)]
    tried = await calls_of_submit(redis) - before
    collected = await client.get(kept[0].headers["location"])
    deleted = await client.delete(kept[1].headers["location"])
    answers = await asyncio.gather(*waiting)
    await redis.config_set("maxmemory", 0)

    async def served() -> bool:
        return (await ask(client, 2)).status_code == 200

    assert {answer.status_code for answer in refused} == {503}
    assert {answer.json()["detail"].split(";")[0] for answer in refused} == {"Redis is out of memory"}
    assert (collected.status_code, deleted.status_code) == (200, 204)
    assert tried <= 2, "one submission a second is tried, the others are refused at once"
    assert {answer.status_code for answer in answers} == {200}
    assert await until(served, 5) < 1.5
    await redis.aclose()


async def test_a_redis_that_becomes_a_replica_is_refused_until_it_is_a_primary_again(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    stack.start_redis()
    await start(stack, client)
    redis = Redis(unix_socket_path=str(stack.folder / "redis.sock"))

    async def explained() -> bool:
        return "replica" in (await client.get("/health/ready")).text

    await redis.replicaof("127.0.0.1", 1)
    refused = await ask(client, 1)
    await until(explained, 5)
    await redis.replicaof("NO", "ONE")
    stack.start_batcher(**MODEL)  # the other has left, to be started again by whoever runs it
    await until_ready(client)

    assert refused.status_code == 503
    assert (await ask(client, 2)).status_code == 200
    await redis.aclose()


async def test_a_redis_that_evicts_is_refused_by_both_processes(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    await until(lambda: answers_ping(stack), 5)
    redis = Redis(unix_socket_path=str(stack.folder / "redis.sock"))
    await redis.config_set("maxmemory", "100mb")
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    await redis.aclose()

    batcher = await asyncio.create_subprocess_exec(
        sys.executable,
        "batcher.py",
        cwd=ROOT,
        env=stack.environment(**MODEL),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await batcher.communicate()
    stack.start_api()
    await until_ready(client, 503)

    async def explained() -> bool:
        return "evicts" in (await client.get("/health/ready")).json()["detail"]

    assert batcher.returncode == 1
    assert said.decode().splitlines()[-1].startswith("batcher: this Redis evicts keys")
    await until(explained, 5)
