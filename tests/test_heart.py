"""A batcher's heart beats in a thread of its own: a model on the event loop stops no lease, and none hangs for ever."""

from __future__ import annotations

import re
import time

import httpx
import numpy as np
import pytest

from tests.stack import Stack, npy, until_ready

HEADERS = {"Content-Type": "application/x-npy"}
SLOW, ENDLESS = 200, 255
THREADS = {"Tells": "model_0", "TellsAnywhere": "MainThread"}
HUNG = 70


def start(stack: Stack, model: str, **settings: str) -> None:
    stack.start_redis()
    common = {"MICROBATCH_MODEL": f"python:tests.moods:{model}", "MICROBATCH_LEASE_S": "0.5"}
    for _ in range(2):
        stack.start_batcher(**common, **settings)
    stack.start_api(**common)


async def ask(client: httpx.AsyncClient, value: int, **headers: str) -> httpx.Response:
    body = npy(np.full((4, 4, 3), value, np.uint8))
    return await client.post("/predict", content=body, headers=HEADERS | headers)


async def until_quick(client: httpx.AsyncClient, thread: str) -> None:
    """Ask until both batchers know that their model is quick: ten answers in a row from the thread that is expected."""
    right, end_s = 0, time.monotonic() + 10
    while right < 10:
        right = right + 1 if (await ask(client, 1)).json()["predictions"] == [thread] else 0
        assert time.monotonic() < end_s


@pytest.mark.parametrize("model", THREADS)
async def test_a_call_that_takes_several_leases_is_left_to_its_batcher(
    stack: Stack, client: httpx.AsyncClient, model: str
) -> None:
    start(stack, model)
    await until_ready(client)
    await until_quick(client, THREADS[model])

    began_s = time.monotonic()
    answer = await ask(client, SLOW)
    took_s = time.monotonic() - began_s
    metrics = (await client.get("/metrics")).text

    assert answer.json()["predictions"] == [THREADS[model]]
    assert 2.0 <= took_s < 3.0
    assert re.search(r'^microbatch_reclaims_total\{queue="default"\} 0.0$', metrics, re.MULTILINE)


@pytest.mark.parametrize("model", THREADS)
async def test_a_model_that_hangs_ends_its_process_and_costs_the_others_nothing(
    stack: Stack, client: httpx.AsyncClient, model: str
) -> None:
    stack.logged = True
    start(stack, model, MICROBATCH_MODEL_TIMEOUT_S="1", MICROBATCH_MAX_SOLO="1")
    await until_ready(client)
    await until_quick(client, THREADS[model])

    began_s = time.monotonic()
    answer = await ask(client, ENDLESS)
    took_s = time.monotonic() - began_s
    after = await ask(client, 1)
    batchers = stack.processes[1:3]
    codes = [process.poll() for process in batchers]

    assert answer.status_code == 500  # the one that it hangs on, given up
    assert 1.0 <= took_s < 5.0
    assert after.json()["predictions"] == [THREADS[model]]
    assert sorted(codes, key=str) == [HUNG, None]
    assert [line for line in stack.log_of(batchers[codes.index(HUNG)]) if "the model hangs" in line]
