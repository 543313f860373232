"""Clients of TensorFlow Serving are answered at its own paths, by real processes."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
from typing import Any

import httpx
import numpy as np
import pytest

from tests.stack import SEVEN, Stack, npy, until_in_flight, until_ready

PREDICT = "/v1/models/model:predict"
BLANK = np.zeros((8, 8), np.uint8).tolist()
B64 = {"b64": base64.b64encode(SEVEN).decode()}
DEEP = json.loads("[" * 100 + "]" * 100)
SIMULATED = {"MICROBATCH_MODEL": "simulated"}
PAIRS = SIMULATED | {"MICROBATCH_INPUT_SHAPE": "2", "MICROBATCH_INPUT_DTYPE": "float32"}


def drawing(number: int) -> list[list[int]]:
    drawn: list[list[int]] = np.random.default_rng(number).integers(0, 256, (8, 8)).tolist()
    return drawn


async def own_answer(client: httpx.AsyncClient, body: bytes, kind: str) -> object:
    answer = await client.post("/predict", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 200
    return answer.json()["predictions"][0]


@pytest.mark.parametrize(
    "form",
    [
        lambda rows: {"instances": rows},
        lambda rows: {"instances": [{"input": row} for row in rows]},
        lambda rows: {"instances": rows, "signature_name": "serving_default", "unknown": [1, 2]},
    ],
)
async def test_rows_are_answered_in_their_order_as_our_own_path_answers_them(shared_stack: Stack, form: Any) -> None:
    rows = [drawing(number) for number in range(5)]
    async with shared_stack.client() as client:
        await until_ready(client)
        own = [await own_answer(client, npy(np.array(row, np.uint8)), "application/x-npy") for row in rows]

        answer = await client.post(PREDICT, json=form(rows))

    assert answer.status_code == 200
    assert answer.json() == {"predictions": own}
    assert "queue;dur=" in answer.headers["server-timing"]


@pytest.mark.parametrize("form", [lambda rows: {"inputs": rows}, lambda rows: {"inputs": {"input": rows}}])
async def test_columns_are_answered_in_columns(shared_stack: Stack, form: Any) -> None:
    rows = [drawing(number) for number in range(3)]
    async with shared_stack.client() as client:
        await until_ready(client)

        by_row = (await client.post(PREDICT, json={"instances": rows})).json()["predictions"]
        answer = await client.post(PREDICT, json=form(rows))

    assert answer.json() == {"outputs": {key: [row[key] for row in by_row] for key in ("label", "score", "scores")}}


@pytest.mark.parametrize("form", [{"instances": [B64, B64]}, {"instances": [{"input": B64}, {"input": B64}]}])
async def test_image_files_come_as_base64(shared_stack: Stack, form: object) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)
        own = await own_answer(client, SEVEN, "image/png")

        answer = await client.post(PREDICT, json=form)

    assert answer.json() == {"predictions": [own, own]}


async def test_a_compressed_body_is_read(shared_stack: Stack) -> None:
    body = gzip.compress(json.dumps({"instances": [BLANK] * 10}).encode())
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.post(PREDICT, content=body, headers={"Content-Encoding": "gzip"})

    assert (answer.status_code, len(answer.json()["predictions"])) == (200, 10)


def changed(value: object) -> list[object]:
    return [value, *BLANK[0][1:]], *BLANK[1:]  # type: ignore[return-value]  # JSON knows no tuples


@pytest.mark.parametrize(
    ("document", "status", "says"),
    [
        ({"instances": [changed(1.5)]}, 400, "uint8"),
        ({"instances": [changed(1.0)]}, 400, "uint8"),
        ({"instances": [changed(256)]}, 400, "beyond uint8"),
        ({"instances": [changed(-1)]}, 400, "beyond uint8"),
        ({"instances": [changed(2**70)]}, 400, "uint8"),
        ({"instances": [changed(True)]}, 400, "true or false"),  # noqa: FBT003 - JSON
        ({"instances": [changed("1")]}, 400, "uint8"),
        ({"instances": [changed(None)]}, 400, "uint8"),
        ({"instances": [changed(float("nan"))]}, 400, "uint8"),
        ({"instances": [BLANK, changed([1])]}, 400, "instances[1]"),
        ({"instances": [BLANK, BLANK[1:]]}, 400, "instances[1]"),
        ({"instances": [7]}, 400, "shape ()"),
        ({"instances": ["seven"]}, 400, "b64"),
        ({"instances": [{"b64": "?"}]}, 400, "base64"),
        ({"instances": [{"b64": base64.b64encode(SEVEN[:500]).decode()}]}, 400, "image"),
        ({"instances": [{"b64": base64.b64encode(b"no image").decode()}]}, 400, "image"),
        ({"instances": [{"other": BLANK}]}, 400, "the one input input"),
        ({"instances": [{"input": BLANK}, BLANK]}, 400, "instances[1]"),
        ({"instances": []}, 400, "one row or more"),
        ({"instances": {}}, 400, "one row or more"),
        ({"inputs": B64}, 400, "one row or more"),
        ({"inputs": {"other": [BLANK]}}, 400, "the one input input"),
        ({"instances": [BLANK], "inputs": [BLANK]}, 400, "either"),
        ({"signature_name": "serving_default"}, 400, "either"),
        ({"instances": [BLANK], "signature_name": "other"}, 400, 'Serving signature name: "other" not found'),
        ([BLANK], 400, "object"),
        ({"instances": [0] * 65}, 413, "64"),
        ({"instances": [DEEP] * 15}, 413, "64 images"),
        ({"instances": "x" * 4000}, 413, "4000 bytes"),
    ],
)
async def test_what_the_model_does_not_take_is_refused_in_tf_servings_words(
    shared_stack: Stack, document: object, status: int, says: str
) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.post(PREDICT, content=json.dumps(document, separators=(",", ":")))

    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (b"{", "", 400),
        (b"[" * 500, "", 400),
        (b"\xff", "", 400),
        (b"no gzip", "gzip", 400),
        (gzip.compress(b"{}")[:-9], "gzip", 400),
        (gzip.compress(b" " * 10**6), "gzip", 413),
        (b"{}", "br", 400),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_in_tf_servings_words(
    shared_stack: Stack, body: bytes, encoding: str, status: int
) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.post(PREDICT, content=body, headers={"Content-Encoding": encoding})

    assert answer.status_code == status
    assert answer.json().keys() == {"error"}


async def test_status_and_metadata_say_what_is_served(shared_stack: Stack) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        status = (await client.get("/v1/models/model")).json()
        metadata = (await client.get("/v1/models/model/metadata")).json()

    [version] = status["model_version_status"]
    assert (version["version"], version["state"], version["status"]["error_code"]) == ("1", "AVAILABLE", "OK")
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["input"]["dtype"] == "DT_UINT8"
    assert [side["size"] for side in signature["inputs"]["input"]["tensor_shape"]["dim"]] == ["-1", "8", "8"]


async def test_a_preference_for_202_is_ignored(shared_stack: Stack) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.post(PREDICT, json={"instances": [BLANK]}, headers={"Prefer": "respond-async"})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("row", "sum_"),
    [("[1,2]", 3.0), ("[1.5,2]", 3.5), ("[NaN,1]", None), ("[Infinity,1]", None)],
)
async def test_floats_take_any_number(stack: Stack, client: httpx.AsyncClient, row: str, sum_: float | None) -> None:
    stack.start_redis()
    stack.start_batcher(**PAIRS)
    stack.start_api(MICROBATCH_SERVED_NAME="pairs", MICROBATCH_SERVED_INPUT="x")
    await until_ready(client)

    answer = await client.post("/v1/models/pairs:predict", content=f'{{"instances":[{{"x":{row}}}]}}')
    refused = await client.post("/v1/models/pairs:predict", content='{"instances":[[1e39,1]]}')

    assert answer.json() == {"predictions": [{"sum": sum_}]}
    assert refused.status_code == 400


async def test_without_a_batcher_the_model_is_loading(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_api()
    await until_ready(client, 503)

    status = (await client.get("/v1/models/model")).json()
    metadata = await client.get("/v1/models/model/metadata")
    refused = await client.post(PREDICT, json={"instances": [BLANK]})

    assert status["model_version_status"][0]["state"] == "LOADING"
    assert (metadata.status_code, refused.status_code) == (503, 503)
    assert refused.headers["retry-after"] == "1"
    assert refused.json().keys() == {"error"}


async def test_a_request_is_admitted_all_or_none_and_a_full_queue_says_when_to_come_back(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    stack.start_redis()
    stack.start_batcher(**PAIRS, MICROBATCH_SIMULATED_BATCH_S="1")
    stack.start_api(MICROBATCH_MAX_QUEUE_DEPTH="3", MICROBATCH_MAX_IMAGES_PER_REQUEST="2")
    await until_ready(client)
    rows = {"instances": [[1, 2], [3, 4]]}
    first = asyncio.create_task(client.post(PREDICT, json=rows))
    await until_in_flight(client, 2)

    refused = await client.post(PREDICT, json=rows)

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert (await first).json() == {"predictions": [{"sum": 3.0}, {"sum": 7.0}]}


async def test_a_row_that_the_model_fails_on_fails_the_request(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_batcher(MICROBATCH_MODEL="python:tests.moods:moody", MICROBATCH_INPUT_SHAPE="1")
    stack.start_api()
    await until_ready(client)

    failed = await client.post(PREDICT, json={"instances": [[1], [13], [2]]})
    answer = await client.post(PREDICT, json={"instances": [[1], [2]]})
    columns = await client.post(PREDICT, json={"inputs": [[1], [2]]})

    assert failed.status_code == 500
    assert failed.json().keys() == {"error"}
    assert answer.json() == {"predictions": [1, 2]}
    assert columns.json() == {"outputs": [1, 2]}


async def test_photographs_as_json_do_not_hold_up_others(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_batcher(**SIMULATED, MICROBATCH_INPUT_SHAPE="224,224,3")
    stack.start_api()
    await until_ready(client)
    body = json.dumps({"instances": [np.full((224, 224, 3), 200).tolist()] * 16}).encode()
    sent = asyncio.create_task(client.post(PREDICT, content=body))
    longest_s, loop = 0.0, asyncio.get_running_loop()
    while not sent.done():
        started_s = loop.time()
        await client.get("/health/live")
        longest_s = max(longest_s, loop.time() - started_s)

    assert (await sent).json()["predictions"] == [{"sum": 224 * 224 * 3 * 200}] * 16
    assert longest_s < 0.5


async def test_our_own_client_of_tf_serving_batches_through_this_front(stack: Stack, client: httpx.AsyncClient) -> None:
    # given: a service whose model is this service, in another queue of the same Redis
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    behind = {"MICROBATCH_QUEUE_NAME": "behind"}
    stack.start_redis()
    stack.start_batcher(**behind)
    stack.start_api_on(port, **behind)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as there:
        await until_ready(there)
        stack.start_batcher(MICROBATCH_MODEL="tf-serving", MICROBATCH_TF_SERVING_URL=f"http://127.0.0.1:{port}")
        stack.start_api()
        await until_ready(client)
        image = np.array(drawing(1), np.uint8)

        own = await own_answer(there, npy(image), "application/x-npy")
        answers = await asyncio.gather(*(own_answer(client, npy(image), "application/x-npy") for _ in range(20)))

    assert answers == [own] * 20
