"""Clients of the Open Inference Protocol are answered at its paths, by real processes."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from models.tensors import HEADER_LENGTH, Tensor, pack, unpack
from tests.stack import SEVEN, Stack, npy, until_in_flight, until_ready

INFER = "/v2/models/model/infer"
DRAWINGS = np.random.default_rng(1).integers(0, 256, (5, 8, 8), dtype=np.uint8)
IMAGES = np.array([SEVEN, SEVEN], object)
FLOATS = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_INPUT_SHAPE": "2", "MICROBATCH_INPUT_DTYPE": "float32"}


async def own_answers(client: httpx.AsyncClient, batch: NDArray[Any]) -> list[dict[str, Any]]:
    headers = {"Content-Type": "application/x-npy"}
    answers = [await client.post("/predict", content=npy(one), headers=headers) for one in batch]
    return [answer.json()["predictions"][0] for answer in answers]


async def infer(client: httpx.AsyncClient, body: bytes, length: int | None, **headers: str) -> httpx.Response:
    sent = headers if length is None else headers | {HEADER_LENGTH: str(length)}
    return await client.post(INFER, content=body, headers={name.replace("_", "-"): sent[name] for name in sent})


def entry(data: object = None, **changes: object) -> dict[str, object]:
    drawing = DRAWINGS[:1].tolist() if data is None else data
    return {"name": "input", "shape": [1, 8, 8], "datatype": "UINT8", "data": drawing} | changes


def outputs(answer: httpx.Response) -> dict[str, NDArray[Any]]:
    assert answer.status_code == 200, answer.text
    return {one.name: one.values for one in unpack("outputs", answer.content, answer.headers.get(HEADER_LENGTH))}


@pytest.mark.parametrize("binary", [False, True])
async def test_rows_are_answered_as_our_own_path_answers_them_one_output_a_key(
    shared_stack: Stack,
    binary: bool,  # noqa: FBT001 - a parameter
) -> None:
    body, length = pack("inputs", [Tensor("input", "UINT8", DRAWINGS)], binary=binary, fields={"id": "u1"})
    async with shared_stack.client() as client:
        await until_ready(client)
        own = await own_answers(client, DRAWINGS)

        answer = await infer(client, body, length)

    document = answer.json()
    assert (document["id"], document["model_name"], document["model_version"]) == ("u1", "model", "1")
    assert {one["name"]: (one["datatype"], one["shape"]) for one in document["outputs"]} == {
        "label": ("INT64", [5]),
        "score": ("FP64", [5]),
        "scores": ("FP64", [5, 10]),
    }
    assert outputs(answer)["label"].tolist() == [one["label"] for one in own]
    assert outputs(answer)["scores"].tolist() == [one["scores"] for one in own]


@pytest.mark.parametrize(
    ("asks", "names", "raw"),
    [
        ({"parameters": {"binary_data_output": True}}, ["label", "score", "scores"], {"label", "score", "scores"}),
        ({"outputs": [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"}]},
         ["scores", "label"], {"scores"}),
        ({"outputs": [{"name": "score", "parameters": {"binary_data": False}}, {"name": "label"}],
          "parameters": {"binary_data_output": True}}, ["score", "label"], {"label"}),
        ({"outputs": [{"name": "label"}]}, ["label"], set()),
    ],
)  # fmt: skip
async def test_outputs_are_chosen_and_come_raw_where_that_is_asked_for(
    shared_stack: Stack, asks: dict[str, object], names: list[str], raw: set[str]
) -> None:
    document = {"inputs": [entry(DRAWINGS.ravel().tolist(), shape=[5, 8, 8])]} | asks
    async with shared_stack.client() as client:
        await until_ready(client)
        own = await own_answers(client, DRAWINGS)

        answer = await client.post(INFER, json=document)

    length = int(answer.headers.get(HEADER_LENGTH, len(answer.content)))
    entries = json.loads(answer.content[:length])["outputs"]
    assert [one["name"] for one in entries] == names
    assert {one["name"] for one in entries if "data" not in one} == raw
    assert all(outputs(answer)[name].tolist() == [one[name] for one in own] for name in names)


@pytest.mark.parametrize("binary", [False, True])
async def test_image_files_come_as_bytes(shared_stack: Stack, binary: bool) -> None:  # noqa: FBT001 - a parameter
    body, length = pack("inputs", [Tensor("input", "BYTES", IMAGES)], binary=binary)
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await infer(client, body, length)

    assert outputs(answer)["label"].tolist() == [7, 7]


@pytest.mark.parametrize("body", [DRAWINGS[0].tobytes(), SEVEN])
async def test_a_raw_request_is_one_tensor_or_file_and_answered_raw(shared_stack: Stack, body: bytes) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)
        label = 7 if body is SEVEN else (await own_answers(client, DRAWINGS[:1]))[0]["label"]

        answer = await infer(client, body, 0)

    assert HEADER_LENGTH in answer.headers
    assert outputs(answer)["label"].tolist() == [label]


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_bodies_are_compressed_both_ways(shared_stack: Stack, encoding: str, compress: Any) -> None:
    many = np.repeat(DRAWINGS, 12, axis=0)
    body, length = pack("inputs", [Tensor("input", "UINT8", many)], binary=True)
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await infer(client, compress(body), length, Content_Encoding=encoding, Accept_Encoding=encoding)
        plain = await infer(client, body, length, Accept_Encoding="identity")

    assert (answer.headers["content-encoding"], plain.headers.get("content-encoding")) == (encoding, None)
    assert answer.content == plain.content


def changed(value: object) -> list[object]:
    return [value, *([0] * 63)]


@pytest.mark.parametrize(
    ("document", "status", "says"),
    [
        ({"inputs": [entry(changed(1.5))]}, 400, "uint8"),
        ({"inputs": [entry(changed(256))]}, 400, "beyond uint8"),
        ({"inputs": [entry(changed(-1))]}, 400, "beyond uint8"),
        ({"inputs": [entry(changed(False))]}, 400, "true or false"),  # noqa: FBT003 - JSON
        ({"inputs": [entry(changed("1"))]}, 400, "uint8"),
        ({"inputs": [entry(changed([1]))]}, 400, "input"),
        ({"inputs": [entry([1])]}, 400, "elements"),
        ({"inputs": [entry([])]}, 400, "list"),
        ({"inputs": [entry({})]}, 400, "list"),
        ({"inputs": [entry(shape=[2, 8, 8])]}, 400, "rows"),
        ({"inputs": [entry(shape=[1, 8, 9])]}, 400, "this model takes UINT8 [-1, 8, 8]"),
        ({"inputs": [entry(shape=[0, 8, 8], data=[])]}, 400, "no image"),
        ({"inputs": [entry(shape=[-1, 8, 8])]}, 400, "image"),
        ({"inputs": [entry(shape=[])]}, 400, "shape"),
        ({"inputs": [entry(shape="1")]}, 400, "shape"),
        ({"inputs": [entry(shape=[65, 8, 8])]}, 413, "64 images"),
        ({"inputs": [entry(datatype="FP32")]}, 400, "this model takes UINT8"),
        ({"inputs": [entry(datatype="BYTES", shape=[1], data=["?"])]}, 400, "base64"),
        ({"inputs": [entry(datatype="BYTES", shape=[1], data=[7])]}, 400, "base64"),
        ({"inputs": [entry(datatype="BYTES", shape=[1], data=[base64.b64encode(SEVEN[:400]).decode()])]}, 400, "image"),
        ({"inputs": [entry(name="other")]}, 400, "the one input is input"),
        ({"inputs": [entry(), entry()]}, 400, "one input"),
        ({"inputs": []}, 400, "one input"),
        ({"inputs": [{"name": "input"}]}, 400, "datatype"),
        ({"inputs": [entry(parameters={"binary_data_size": 64})]}, 400, "no call"),
        ({"inputs": [entry()], "outputs": [{"name": "other"}]}, 400, "no output other, but label"),
        ({"inputs": [entry()], "outputs": [{"name": "label", "parameters": {"classification": 3}}]}, 400, "not served"),
        ({}, 400, "inputs"),
        ([], 400, "call"),
    ],
)
async def test_what_is_no_call_of_the_model_is_refused_in_the_protocols_words(
    shared_stack: Stack, document: object, status: int, says: str
) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.post(INFER, json=document)

    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"{}", {HEADER_LENGTH: "3"}, 400),
        (b"{}", {HEADER_LENGTH: "-1"}, 400),
        (b"{}", {HEADER_LENGTH: "two"}, 400),
        (b"", {HEADER_LENGTH: "0"}, 400),
        (b"no image", {HEADER_LENGTH: "0"}, 400),
        (b"no gzip", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(b" " * 10**6), {"Content-Encoding": "gzip"}, 413),
        (b" " * 5000, {}, 413),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused_in_the_protocols_words(
    shared_stack: Stack, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await client.post(INFER, content=body, headers=headers)

    assert answer.status_code == status
    assert answer.json().keys() == {"error"}


@pytest.mark.parametrize("cut", [-1, 1])
async def test_raw_bytes_must_be_as_many_as_the_json_says(shared_stack: Stack, cut: int) -> None:
    body, length = pack("inputs", [Tensor("input", "UINT8", DRAWINGS)], binary=True)
    async with shared_stack.client() as client:
        await until_ready(client)

        answer = await infer(client, body[:cut] if cut < 0 else body + b"x", length)

    assert answer.status_code == 400


async def test_metadata_and_configuration_say_what_clients_need(shared_stack: Stack) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)

        server = (await client.get("/v2")).json()
        metadata = (await client.get("/v2/models/model/versions/1")).json()
        configuration = (await client.get("/v2/models/model/config")).json()

    assert "binary_tensor_data" in server["extensions"]
    assert "statistics" not in server["extensions"]
    assert metadata["inputs"] == [{"name": "input", "datatype": "UINT8", "shape": [-1, 8, 8]}]
    assert (metadata["name"], metadata["versions"]) == ("model", ["1"])
    assert configuration == {"name": "model", "platform": "", "max_batch_size": 64, "dynamic_batching": {}}


async def test_without_a_batcher_nothing_is_ready(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_api()
    await until_ready(client, 503)

    live, ready = await client.get("/v2/health/live"), await client.get("/v2/health/ready")
    model, refused = await client.get("/v2/models/model/ready"), await client.post(INFER, json={"inputs": [entry()]})

    assert [answer.status_code for answer in (live, ready, model, refused)] == [200, 503, 503, 503]
    assert refused.headers["retry-after"] == "1"
    assert refused.json().keys() == {"error"}


async def test_a_full_queue_is_503_and_says_when_to_come_back(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_batcher(**FLOATS, MICROBATCH_SIMULATED_BATCH_S="1")
    stack.start_api(MICROBATCH_MAX_QUEUE_DEPTH="3", MICROBATCH_MAX_IMAGES_PER_REQUEST="2")
    await until_ready(client)
    document = {"inputs": [entry([1, 2, float("inf"), 4.5], shape=[2, 2], datatype="FP32")]}
    first = asyncio.create_task(client.post(INFER, content=json.dumps(document)))
    await until_in_flight(client, 2)

    refused = await client.post(INFER, content=json.dumps(document))

    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    [sums] = (await first).json()["outputs"]
    assert (sums["name"], sums["datatype"], sums["data"][0]) == ("sum", "FP64", 3)


async def test_a_row_that_the_model_fails_on_fails_the_request(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_batcher(MICROBATCH_MODEL="python:tests.moods:moody", MICROBATCH_INPUT_SHAPE="1")
    stack.start_api()
    await until_ready(client)

    failed = await client.post(INFER, json={"inputs": [entry([1, 13], shape=[2, 1])]})
    answer = await client.post(INFER, json={"inputs": [entry([1, 2], shape=[2, 1])]})

    assert failed.status_code == 500
    assert failed.json().keys() == {"error"}
    assert answer.json()["outputs"] == [{"name": "output", "shape": [2], "datatype": "INT64", "data": [1, 2]}]


@pytest.mark.parametrize("binary", ["on", "off"])
async def test_our_own_client_of_the_protocol_batches_through_this_front(
    stack: Stack, client: httpx.AsyncClient, binary: str
) -> None:
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
        stack.start_batcher(
            MICROBATCH_MODEL="open-inference",
            MICROBATCH_INFERENCE_URL=f"http://127.0.0.1:{port}",
            MICROBATCH_INFERENCE_BINARY=binary,
        )
        stack.start_api()
        await until_ready(client)

        own, through = await own_answers(there, DRAWINGS), await own_answers(client, DRAWINGS)

    assert through == own
