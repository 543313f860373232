"""Real uvicorn, real batchers, a real server, real images."""

from __future__ import annotations

import asyncio
import base64
import signal
import statistics
import time

import httpx
import numpy as np
import pytest

import images
from bench.models import Small
from bench.workloads import photo
from inputs import ModelInput
from tests.stack import PNG, SEVEN, Stack, npy, until_answering, until_in_flight, until_ready


async def test_a_drawing_is_recognised(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_batcher()
    stack.start_api()
    await until_ready(client)

    answer = await client.post("/predict", content=SEVEN, headers=PNG)

    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] == 7
    assert answer.headers["microbatch-batch-size"] == "1"


async def test_a_thousand_concurrent_requests_each_get_their_own_answer(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    stack.start_redis()
    for _ in range(2):
        stack.start_batcher(MICROBATCH_MODEL="simulated")
    stack.start_api(MICROBATCH_MAX_QUEUE_DEPTH="2000")
    await until_ready(client)
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8)
    headers = {"Content-Type": "application/x-npy"}

    answers = await asyncio.gather(*(client.post("/predict", content=npy(one), headers=headers) for one in images))

    assert [answer.status_code for answer in answers] == [200] * 1000
    sums = [answer.json()["predictions"][0]["sum"] for answer in answers]
    assert sums == images.reshape(1000, -1).sum(axis=1).tolist()
    assert len({answer.json()["id"] for answer in answers}) == 1000


async def test_without_a_batcher_nobody_is_told_ready_whatever_the_settings_say_of_the_model(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    stack.start_redis()
    stack.start_api(MICROBATCH_INPUT_SHAPE="8,8,1")

    await until_answering(client)
    for _ in range(10):
        ready = await client.get("/health/ready")
        await asyncio.sleep(0.02)

        assert ready.status_code == 503
    refused = await client.post("/predict", content=SEVEN, headers=PNG)
    assert refused.status_code == 503
    assert "no batcher is alive" in refused.json()["detail"]


async def test_both_processes_wait_for_redis_and_come_good_by_themselves(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    stack.start_batcher()
    stack.start_api()
    await until_ready(client, 503)
    refused = await client.post("/predict", content=SEVEN, headers=PNG)

    stack.start_redis()
    await until_ready(client)
    answer = await client.post("/predict", content=SEVEN, headers=PNG)

    assert refused.status_code == 503
    assert refused.json()["code"] == "unavailable"
    assert refused.headers["retry-after"] == "1"
    assert answer.status_code == 200


async def test_a_load_balancer_may_look_by_head_and_keep_its_connection(shared_stack: Stack) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)
    reader, writer = await asyncio.open_unix_connection(f"{shared_stack.folder}/api.sock")
    writer.write(b"HEAD /health/ready HTTP/1.1\r\nHost: service\r\n\r\n")

    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    with pytest.raises(TimeoutError):  # by itself uvicorn closes after 5 s
        await asyncio.wait_for(reader.read(), 6)
    writer.close()


async def test_a_killed_batchers_jobs_are_run_by_another(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    slow = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_SIMULATED_BATCH_S": "1"}
    first = stack.start_batcher(**slow)
    stack.start_api()
    await until_ready(client)
    image = np.full((32, 32, 3), 1, np.uint8)
    asked = asyncio.create_task(
        client.post("/predict", content=npy(image), headers={"Content-Type": "application/x-npy"})
    )
    await until_in_flight(client, 1)

    first.kill()
    stack.start_batcher(**slow)
    answer = await asked

    assert answer.json()["predictions"] == [{"sum": 3072}]


async def test_sigterm_finishes_what_is_held(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    batcher = stack.start_batcher(MICROBATCH_MODEL="simulated", MICROBATCH_SIMULATED_BATCH_S="1")
    stack.start_api()
    await until_ready(client)
    image = np.full((32, 32, 3), 1, np.uint8)
    asked = asyncio.create_task(
        client.post("/predict", content=npy(image), headers={"Content-Type": "application/x-npy"})
    )
    await until_in_flight(client, 1)

    batcher.send_signal(signal.SIGTERM)
    answer = await asked

    assert answer.status_code == 200
    assert await asyncio.to_thread(batcher.wait, 5) == 0


async def test_an_asynchronous_request_is_collected_and_can_be_forgotten(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    stack.start_redis()
    stack.start_batcher()
    stack.start_api()
    await until_ready(client)

    sent = await client.post("/predict", content=SEVEN, headers=PNG | {"Prefer": "respond-async"})
    place = sent.headers["location"]
    end_s = time.monotonic() + 5
    while (answer := await client.get(place)).status_code == 202 and time.monotonic() < end_s:
        await asyncio.sleep(0.01)
    deleted = await client.delete(place)
    gone = await client.get(place)

    assert sent.status_code == 202
    assert sent.headers["preference-applied"] == "respond-async"
    assert answer.json()["predictions"][0]["label"] == 7
    assert (deleted.status_code, gone.status_code) == (204, 404)


async def test_an_asynchronous_request_with_a_broken_image_is_refused_whole(shared_stack: Stack) -> None:
    files = [("image", ("good.png", SEVEN)), ("image", ("bad.png", SEVEN[:500]))]
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.post("/predict", files=files, headers={"Prefer": "respond-async"})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


@pytest.mark.parametrize("decode_in", ["auto", "api"])
async def test_photos_are_answered_alike_whoever_decodes_them(
    stack: Stack, client: httpx.AsyncClient, decode_in: str
) -> None:
    model, takes = Small(), ModelInput(Small.input_shape)
    files = [photo(number) for number in range(20)]
    tensors = [images.decode(one, takes=takes, formats=("jpeg",), max_pixels=10**6) for one in files]
    stack.start_redis()
    stack.start_batcher(MICROBATCH_MODEL="python:bench.models:Small")
    stack.start_api(MICROBATCH_DECODE_IN=decode_in)
    await until_ready(client)

    parts = [("image", ("photo.jpg", one)) for one in [*files, files[0][:2000]]]
    answer = await client.post("/predict", files=parts)
    alone = await client.post("/predict", content=files[0][:2000], headers={"Content-Type": "image/jpeg"})

    *found, broken = answer.json()["predictions"]
    assert found == model.predict(np.stack(tensors))
    assert broken["error"]["code"] == "invalid_image"
    assert float(answer.headers["server-timing"].partition("decode;dur=")[2].partition(",")[0]) > 1
    assert (alone.status_code, alone.json()["code"]) == (422, "invalid_image")


async def test_a_text_that_is_no_base64_fails_alone(shared_stack: Stack) -> None:
    instances = [{"b64": base64.b64encode(SEVEN).decode()}, {"b64": "!!"}]
    async with shared_stack.client() as client:
        await until_ready(client)
        answer = await client.post("/predict", json={"instances": instances})

    good, bad = answer.json()["predictions"]
    assert (answer.status_code, good["label"], bad["error"]["code"]) == (200, 7, "invalid_image")


async def test_a_wait_that_is_over_is_504(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_batcher(MICROBATCH_MODEL="simulated", MICROBATCH_SIMULATED_BATCH_S="3")
    stack.start_api()
    await until_ready(client)
    headers = {"Content-Type": "application/x-npy", "Prefer": "wait=1"}

    answer = await client.post("/predict", content=npy(np.zeros((32, 32, 3), np.uint8)), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "image/png", 400, "bad_request"),
        (b"{", "application/json", 400, "bad_request"),
        (b'{"instances":[{"b64":"?"}]}', "application/json", 422, "invalid_image"),
        (b'{"instances":[{"b64":1}]}', "application/json", 400, "bad_request"),
        (b"no npy", "application/x-npy", 400, "bad_request"),
        (b"x", "multipart/form-data", 400, "bad_request"),
        (b"x" * 5000, "image/png", 413, "too_large"),
        (b"hello", "text/plain", 415, "unsupported_media_type"),
        (b"hello", "image/png", 415, "unsupported_media_type"),
        (SEVEN[:500], "image/png", 422, "invalid_image"),
        (npy(np.zeros((3, 3), np.uint8)), "application/x-npy", 422, "invalid_image"),
    ],
)
async def test_bad_input_is_refused_with_its_own_code(
    shared_stack: Stack, body: bytes, content_type: str, status: int, code: str
) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.post("/predict", content=body, headers={"Content-Type": content_type})

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_lone_tensor_is_answered_within_five_milliseconds(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_batcher(MICROBATCH_MODEL="simulated")
    stack.start_api()
    await until_ready(client)
    body, headers = npy(np.zeros((32, 32, 3), np.uint8)), {"Content-Type": "application/x-npy"}
    took_s = []
    for _ in range(200):
        started_s = time.perf_counter()
        answer = await client.post("/predict", content=body, headers=headers)
        took_s.append(time.perf_counter() - started_s)
        assert answer.status_code == 200

    assert statistics.median(took_s) < 0.005
