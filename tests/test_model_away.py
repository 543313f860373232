"""A model server that goes away while requests wait, and comes back."""

from __future__ import annotations

import asyncio
import time

import httpx
import numpy as np

from tests.stack import Stack, npy, until_ready
from tests.tf_serving_client import serving

HEADERS = {"Content-Type": "application/x-npy"}


def start(stack: Stack, port: int) -> None:
    stack.start_redis()
    stack.start_batcher(
        MICROBATCH_MODEL="tf-serving",
        MICROBATCH_TF_SERVING_URL=f"http://127.0.0.1:{port}",
        MICROBATCH_TF_SERVING_NAME="sum",
        MICROBATCH_INPUT_SHAPE="4,4,3",
    )
    stack.start_api()


async def ask(client: httpx.AsyncClient, value: int, **headers: str) -> httpx.Response:
    body = npy(np.full((4, 4, 3), value, np.uint8))
    return await client.post("/predict", content=body, headers=HEADERS | headers)


async def test_what_waits_is_answered_when_the_model_comes_back(stack: Stack, client: httpx.AsyncClient) -> None:
    # given: a model server that was there and is not any more
    with serving() as (_, port):
        start(stack, port)
        await until_ready(client)
        before = await ask(client, 1)

    # when
    waiting = [asyncio.create_task(ask(client, value)) for value in range(40)]
    await until_ready(client, 503)
    said = (await client.get("/health/ready")).json()
    late = await ask(client, 1, Prefer="wait=1")
    with serving(port):
        came_back_s = time.monotonic()
        answers = await asyncio.gather(*waiting)
        took_s = time.monotonic() - came_back_s
        await until_ready(client)

    # then: each has its own answer, and who could not wait was told why
    assert before.status_code == 200
    assert [answer.json()["predictions"] for answer in answers] == [[48.0 * value] for value in range(40)]
    assert took_s < 5
    assert "circuit breaker" in said["detail"]
    assert (late.status_code, late.json()["code"]) == (502, "model_unavailable")


async def test_a_batcher_waits_for_a_model_that_is_not_there_yet(stack: Stack, client: httpx.AsyncClient) -> None:
    with serving() as (_, port):
        pass
    start(stack, port)
    await until_ready(client, 503)

    with serving(port):
        await until_ready(client)
        answer = await ask(client, 2)

    assert answer.json()["predictions"] == [96.0]
