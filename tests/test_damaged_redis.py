"""Somebody writes over what is in Redis while the service runs: no process ends, and only what was hit suffers."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import httpx
from redis.asyncio import Redis

from tests.stack import Stack, until_ready
from tests.test_redis_faults import MODEL, ask, until

KEY = "{mb:default}:"
GARBAGE = (b"", b"x", b"\xff\xfe\x00", b"1 2", b"a b c d e f g h\n{", b'{"code": 1}')


async def test_garbage_in_redis_ends_no_process_and_costs_at_most_its_own_job(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    # given: jobs that wait, since their batcher is stopped
    stack.start_redis()
    batcher, api = stack.start_batcher(**MODEL), stack.start_api()
    await until_ready(client)
    redis: Any = Redis(unix_socket_path=str(stack.folder / "redis.sock"))
    assert (await ask(client, 1)).status_code == 200
    batcher.send_signal(signal.SIGSTOP)
    waiting = [asyncio.create_task(ask(client, number)) for number in range(40)]

    async def all_wait() -> bool:
        return int(await redis.zcard(KEY + "deadlines")) == 40

    await until(all_wait, 5)

    # when: rows, tokens, counters, results are written over
    uuids = await redis.hkeys(KEY + "meta")
    for number, text in enumerate(GARBAGE * 2):
        await redis.hset(KEY + "meta", uuids[number], text)
        await redis.hset(KEY + "workers", f"odd-{number}", text)
        await redis.hset(KEY + "apis", f"odd-{number}", text)
        await redis.rpush(KEY + "bell", text)
        for field in ("submitted", "claimed", "settled", "submit_calls", "arriving"):
            await redis.hset(KEY + "stats", field, text)
    apis = [one async for one in redis.scan_iter(KEY + "apis")]
    for process in await redis.hkeys(apis[0]):
        await redis.rpush(KEY + "bell:" + process.decode(errors="replace"), *GARBAGE)
    broken = uuids[-1].decode()
    await redis.set(f"{KEY}result:{broken}", b"x")
    batcher.send_signal(signal.SIGCONT)
    answers = await asyncio.gather(*waiting)

    # then
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses in ([200] * 39 + [500], [200] * 40)  # the result that was written over may be written again in time
    assert [batcher.poll(), api.poll()] == [None, None]
    assert {(await ask(client, number)).status_code for number in range(5)} == {200}
    assert (await client.get("/metrics")).status_code == 200
    assert 'microbatch_jobs_torn_total{queue="default"}' in (await client.get("/metrics")).text
    await redis.aclose()
