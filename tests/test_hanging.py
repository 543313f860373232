"""An image on which the model hangs, wherever it runs: it fails alone, its neighbours are answered in their time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from loop import HUNG
from tests.stack import Stack, npy, until_ready
from tests.test_poison import Nursery
from tests.tf_serving_client import serving

TIMEOUT_S, DEADLINE_S = 1.0, 12.0
COUNT = 16
MODEL = """
import os, time
{start}
class Model:
    input_shape = (4, 4, 3)

    def predict(self, batch):
        if 255 in batch: {hang}
        return [float(row.sum()) for row in batch]
"""
HANGS = "time.sleep(60)"


def settings(folder: Path, *, start: str = "", hang: str = HANGS, **more: str) -> dict[str, str]:
    (folder / "hanging.py").write_text(MODEL.format(start=start, hang=hang))
    return {
        "PYTHONPATH": str(folder),
        "MICROBATCH_MODEL": "python:hanging:Model",
        "MICROBATCH_PYTHON_RUNS_IN": "process",
        "MICROBATCH_MODEL_TIMEOUT_S": str(TIMEOUT_S),
        "MICROBATCH_LOG_LEVEL": "error",
    } | {f"MICROBATCH_{name}": value for name, value in more.items()}


def remote(port: int, **more: str) -> dict[str, str]:
    return {
        "MICROBATCH_MODEL": "tf-serving",
        "MICROBATCH_TF_SERVING_URL": f"http://127.0.0.1:{port}",
        "MICROBATCH_TF_SERVING_NAME": "stuck-30",
        "MICROBATCH_INPUT_SHAPE": "4,4,3",
        "MICROBATCH_MODEL_TIMEOUT_S": str(TIMEOUT_S),
        "MICROBATCH_LOG_LEVEL": "error",
    } | {f"MICROBATCH_{name}": value for name, value in more.items()}


async def ask(client: httpx.AsyncClient, value: int) -> httpx.Response:
    body = npy(np.full((4, 4, 3), value, np.uint8))
    return await client.post("/predict", content=body, headers={"Content-Type": "application/x-npy"})


async def ask_all(client: httpx.AsyncClient, values: list[int]) -> list[object]:
    """Ask for all in one request, whose answer says of each what became of it: a prediction, or an error's code."""
    return [said(answer) for answer in await asyncio.gather(*(ask(client, value) for value in values))]


def said(answer: httpx.Response) -> object:
    body = answer.json()
    return body["predictions"][0] if answer.status_code == 200 else (answer.status_code, body["code"])


def right(values: list[int]) -> list[object]:
    return [(500, "model_failed") if value == 255 else 48.0 * value for value in values]


def values(bad: list[int], count: int = COUNT) -> list[int]:
    return [255 if place in bad else place for place in range(count)]


@asynccontextmanager
async def service(
    stack: Stack,
    client: httpx.AsyncClient,
    batcher: dict[str, str],
    *,
    batchers: int = 1,
    deadline_s: float = DEADLINE_S,
) -> AsyncIterator[None]:
    stack.start_redis()
    for _ in range(batchers):
        stack.start_batcher(**batcher)
    stack.start_api(MICROBATCH_REQUEST_TIMEOUT_S=str(deadline_s), MICROBATCH_LOG_LEVEL="error")
    await until_ready(client)
    yield


@pytest.mark.long
@pytest.mark.parametrize("batchers", [1, 2])
@pytest.mark.parametrize("warm", [False, True])
async def test_in_a_process_of_its_own_a_hanging_image_fails_alone(
    stack: Stack,
    client: httpx.AsyncClient,
    tmp_path: Path,
    batchers: int,
    warm: bool,  # noqa: FBT001  # a parameter
) -> None:
    async with service(stack, client, settings(tmp_path), batchers=batchers):
        given = values([5])
        if warm:
            assert await ask_all(client, values([])) == right(values([]))

        assert await ask_all(client, given) == right(given)
        assert await ask_all(client, values([])) == right(values([])), "it goes on"


@pytest.mark.long
async def test_in_a_process_of_its_own_several_of_many_fail_alone(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with service(stack, client, settings(tmp_path, MAX_BATCH_SIZE="64"), deadline_s=25):
        given = values([3, 40], 64)

        assert await ask_all(client, given) == right(given)


@pytest.mark.long
async def test_a_model_that_loads_longer_than_a_call_may_take_costs_no_job_a_death(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """Three seconds of loading, one for a call: only jobs that were with a model when it hung are suspected."""
    slow = settings(tmp_path, start="time.sleep(3)", MAX_SOLO="1")
    async with service(stack, client, slow, deadline_s=25):
        given = values([5])
        answers = await ask_all(client, given)
        counted = (await client.get("/metrics")).text

    assert answers == right(given)
    assert counts(counted, "reclaims") == 0
    assert counts(counted, "call_deaths") <= COUNT + 4 + 1


def counts(metrics: str, name: str) -> float:
    (line,) = [one for one in metrics.splitlines() if one.startswith(f"microbatch_{name}_total{{")]
    return float(line.split(" ")[1])


@pytest.mark.long
async def test_in_a_thread_a_hanging_image_fails_alone(stack: Stack, client: httpx.AsyncClient, tmp_path: Path) -> None:
    stack.start_redis()
    nursery = Nursery(
        stack,
        code=HUNG,
        **settings(tmp_path, PYTHON_RUNS_IN="thread", LEASE_S="0.3", MAX_SOLO="2", MODEL_TIMEOUT_S="0.5"),
    )
    stack.start_api(MICROBATCH_REQUEST_TIMEOUT_S="25")
    await until_ready(client)
    keeping = asyncio.create_task(nursery.keep())
    given = values([5])

    answers = await ask_all(client, given)
    keeping.cancel()

    assert answers == right(given)


@pytest.mark.long
@pytest.mark.parametrize("batchers", [1, 2])
@pytest.mark.parametrize("warm", [False, True])
async def test_behind_a_server_a_hanging_image_fails_alone(
    stack: Stack,
    client: httpx.AsyncClient,
    batchers: int,
    warm: bool,  # noqa: FBT001  # a parameter
) -> None:
    with serving() as (_, port):
        async with service(stack, client, remote(port), batchers=batchers):
            given = values([5])
            if warm:
                assert await ask_all(client, values([])) == right(values([]))

            assert await ask_all(client, given) == right(given)
            assert await ask_all(client, values([])) == right(values([])), "it goes on"


@pytest.mark.long
async def test_behind_a_server_two_neighbours_that_hang_fail_alone(stack: Stack, client: httpx.AsyncClient) -> None:
    """The last ones of their batch: no call after theirs tells that the server is there."""
    with serving() as (_, port):
        async with service(stack, client, remote(port, MAX_BATCH_SIZE="64"), deadline_s=20):
            given = values([38, 39], 40)

            assert await ask_all(client, given) == right(given)


@pytest.mark.long
async def test_a_server_that_hangs_for_all_is_no_image_s_fault(stack: Stack, client: httpx.AsyncClient) -> None:
    with serving() as (process, port):
        async with service(stack, client, remote(port), deadline_s=8):
            assert await ask_all(client, values([])) == right(values([]))
            process.send_signal(signal.SIGSTOP)

            answers = await ask_all(client, values([]))
            process.send_signal(signal.SIGCONT)

            assert answers == [(502, "model_unavailable")] * COUNT
            while (await ask(client, 1)).status_code != 200:
                await asyncio.sleep(0.05)
            assert await ask_all(client, values([])) == right(values([])), "it goes on"


@pytest.mark.long
async def test_an_image_that_hangs_alone_holds_up_nobody_behind_it(stack: Stack, client: httpx.AsyncClient) -> None:
    with serving() as (_, port):
        async with service(stack, client, remote(port), deadline_s=8):
            hanging = asyncio.create_task(ask(client, 255))
            await asyncio.sleep(0.3)  # it is with the model: what follows finds the batcher busy
            began_s = time.monotonic()
            others = [said(await ask(client, value)) for value in range(4)]
            took_s = time.monotonic() - began_s

            assert others == right([0, 1, 2, 3])
            assert took_s < 4 * TIMEOUT_S
            assert said(await hanging) in {(500, "model_failed"), (502, "model_unavailable")}
