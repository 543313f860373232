"""The last batcher says goodbye: readiness says so at once, and a restart is bridged."""

from __future__ import annotations

import asyncio
import signal
import time

import httpx

from tests.stack import Stack, until_ready
from tests.test_redis_faults import ask

WORKER_TIMEOUT_S = 2.0
MODEL = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_SIMULATED_BATCH_S": "0.02"}
API = {"MICROBATCH_WORKER_TIMEOUT_S": str(WORKER_TIMEOUT_S)}
READY_PATHS = ("/health/ready", "/health/ready/model", "/v2/health/ready", "/v2/models/model/ready")


async def test_who_asks_just_after_the_last_goodbye_hears_that_nobody_is_there(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    stack.start_redis()
    batcher = stack.start_batcher(**MODEL)
    stack.start_api(**API)
    await until_ready(client)
    batcher.terminate()
    await asyncio.to_thread(batcher.wait)

    statuses = [(await client.get(path)).status_code for path in READY_PATHS]
    told = (await client.get("/v1/models/model")).json()["model_version_status"][0]["state"]

    assert statuses == [503] * len(READY_PATHS)
    assert told == "LOADING"


async def test_a_restart_of_the_only_batcher_is_bridged(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    batcher = stack.start_batcher(**MODEL)
    stack.start_api(**API)
    await until_ready(client)
    batcher.terminate()
    await asyncio.to_thread(batcher.wait)

    waiting = [asyncio.create_task(ask(client, number)) for number in range(20)]
    stack.start_batcher(**MODEL)
    answers = await asyncio.gather(*waiting)

    assert {answer.status_code for answer in answers} == {200}


async def until_accepted(client: httpx.AsyncClient, jobs: int) -> None:
    """Wait until so many jobs are in the queue."""
    wanted = f'microbatch_queue_depth{{queue="default"}} {float(jobs)}\n'
    end_s = time.monotonic() + 10
    while wanted not in (await client.get("/metrics")).text:
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)


async def test_who_waits_for_a_batcher_that_does_not_come_is_told_so_without_waiting_for_his_deadline(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    stack.start_redis()
    batcher = stack.start_batcher(**MODEL)
    stack.start_api(**API)
    await until_ready(client)
    batcher.send_signal(signal.SIGSTOP)
    asked = [asyncio.create_task(ask(client, 1)), asyncio.create_task(ask(client, 2, Prefer="respond-async, wait=9"))]
    await until_accepted(client, 2)
    batcher.kill()
    began_s = time.monotonic()

    waited, promised = await asyncio.gather(*asked)
    took_s = time.monotonic() - began_s
    late = await ask(client, 3)

    assert (waited.status_code, waited.json()["code"]) == (503, "unavailable")
    assert promised.status_code == 202, "it may run for minutes yet"
    assert WORKER_TIMEOUT_S - 1.1 < took_s < WORKER_TIMEOUT_S + 2.5
    assert (late.status_code, late.json()["code"]) == (503, "unavailable")
