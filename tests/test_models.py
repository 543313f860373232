"""Several models behind one api, by real processes: each has its own paths, queue and batchers."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import uuid4

import httpx
import numpy as np
import pytest

from tests.fleet import until
from tests.stack import PNG, ROOT, SEVEN, Stack, npy, until_ready

SUMS = """
import os, signal

class Sums:
    input_shape = (2,)

    def predict(self, batch):
        if (batch == 255).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return [{"sum": int(row.sum())} for row in batch]
"""
SETTINGS = {
    "MODELS": "digits,sums",
    "SUMS__MODEL": "python:sums:Sums",
    "SUMS__SERVED_NAME": "Sums-2",
    "SUMS__MAX_IMAGES_PER_REQUEST": "2",
    "SUMS__MAX_QUEUE_DEPTH": "2",
    "SUMS__MAX_BODY_BYTES": "1000",
    "SUMS__MAX_SOLO": "1",
    "SUMS__LEASE_S": "0.5",
    "SUMS__WORKER_TIMEOUT_S": "3",
}
NPY = {"Content-Type": "application/x-npy"}
ASYNC = {"Prefer": "respond-async"}


@dataclass
class Models:
    """The stack, and the batcher of the model that is not the default one."""

    stack: Stack
    settings: dict[str, str]

    def __post_init__(self) -> None:
        """Start Redis, a batcher of each model and the api."""
        self.stack.start_redis()
        self.stack.start_batcher(**self.settings)
        self.start_batcher_of_sums()
        self.stack.start_api(**self.settings)

    def start_batcher_of_sums(self) -> None:
        self.batcher = self.stack.start(sys.executable, "batcher.py", "sums", **self.settings)

    async def tools(self, *commands: str) -> list[subprocess.CompletedProcess[str]]:
        """Return what becomes of some commands, run beside each other."""
        return await asyncio.gather(*(asyncio.to_thread(self._tool, command) for command in commands))

    def _tool(self, command: str) -> subprocess.CompletedProcess[str]:
        environment = self.stack.environment(**self.settings)
        words = [sys.executable, "-m", *command.split()]
        return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    stack = Stack(tmp_path_factory.mktemp("models"))
    (stack.folder / "sums.py").write_text(SUMS)
    settings = {f"MICROBATCH_{name}": value for name, value in SETTINGS.items()}
    yield Models(stack, settings | {"PYTHONPATH": str(stack.folder)})
    stack.kill()


@pytest.fixture
async def client(models: Models) -> AsyncIterator[httpx.AsyncClient]:
    async with models.stack.client() as opened:
        await until_ready(opened)
        yield opened


async def add(client: httpx.AsyncClient, *pair: int, path: str = "/predict/sums", **headers: str) -> httpx.Response:
    return await client.post(path, content=npy(np.array(pair, np.uint8)), headers=NPY | headers)


async def draw(client: httpx.AsyncClient, path: str = "/predict", **headers: str) -> httpx.Response:
    return await client.post(path, content=SEVEN, headers=PNG | headers)


async def collected(client: httpx.AsyncClient, accepted: httpx.Response) -> httpx.Response:
    """Return the answer that an accepted request comes to."""
    assert accepted.status_code == 202
    answer = accepted

    async def is_there() -> bool:
        nonlocal answer
        answer = await client.get(accepted.headers["location"])
        return answer.status_code != 202

    await until("a result is there", is_there)
    return answer


async def test_each_path_is_answered_by_its_own_model(client: httpx.AsyncClient) -> None:
    drawn = [await draw(client, path) for path in ("/predict", "/predict/digits")]
    added = await add(client, 3, 4)

    assert [answer.json()["predictions"][0]["label"] for answer in drawn] == [7, 7]
    assert added.json()["predictions"] == [{"sum": 7}]


async def test_each_model_has_its_own_input_and_limits(client: httpx.AsyncClient) -> None:
    wrong = await add(client, 3, 4, path="/predict")
    long = [await client.post(path, content=b"x" * 1001, headers=NPY) for path in ("/predict/sums", "/predict/digits")]

    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_image")
    assert [answer.status_code for answer in long] == [413, 400]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict/summs"), ("POST", "/predict/Sums-2"), ("GET", "/health/ready/summs")]
)
async def test_an_unknown_model_is_404_and_told_which_there_are(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path)

    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    assert "digits, sums" in answer.json()["detail"]


async def test_a_result_is_collected_and_cancelled_by_its_id_whichever_model_it_is_of(
    models: Models, client: httpx.AsyncClient
) -> None:
    drawn, added = (
        await collected(client, await draw(client, **ASYNC)),
        await collected(client, await add(client, 3, 4, **ASYNC)),
    )
    models.batcher.send_signal(signal.SIGSTOP)
    waiting = (await add(client, 5, 6, **ASYNC)).headers["location"]

    before = await client.get(waiting)
    cancelled = await client.delete(waiting)
    after = await client.get(waiting)
    models.batcher.send_signal(signal.SIGCONT)

    assert drawn.json()["predictions"][0]["label"] == 7
    assert added.json()["predictions"] == [{"sum": 7}]
    assert [answer.status_code for answer in (before, cancelled, after)] == [202, 204, 404]


async def test_a_full_queue_refuses_only_its_own_model_s_requests(models: Models, client: httpx.AsyncClient) -> None:
    models.batcher.send_signal(signal.SIGSTOP)
    waiting = [await add(client, number, 1, **ASYNC) for number in range(2)]

    refused = await add(client, 3, 1, **ASYNC)
    other = await asyncio.gather(*(draw(client) for _ in range(5)))
    models.batcher.send_signal(signal.SIGCONT)

    assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
    assert [answer.status_code for answer in other] == [200] * 5
    assert [(await collected(client, one)).json()["predictions"] for one in waiting] == [[{"sum": 1}], [{"sum": 2}]]


async def test_an_idempotency_key_counts_for_one_model(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": str(uuid4())}

    first, other, again = await add(client, 3, 4, **key), await draw(client, **key), await add(client, 3, 4, **key)

    assert first.json() == again.json()
    assert other.json()["predictions"][0]["label"] == 7


async def test_clients_of_other_servers_find_each_model_by_its_served_name(client: httpx.AsyncClient) -> None:
    data = {"name": "input", "shape": [1, 2], "datatype": "UINT8", "data": [3, 4]}

    rows = await client.post("/v1/models/Sums-2:predict", json={"instances": [[3, 4]]})
    outputs = await client.post("/v2/models/Sums-2/infer", json={"inputs": [data]})
    metadata = await client.get("/v2/models/digits")
    unknown = await client.post("/v1/models/sums:predict", json={"instances": [[3, 4]]})

    assert rows.json() == {"predictions": [{"sum": 7}]}
    assert outputs.json()["model_name"] == "Sums-2"
    assert outputs.json()["outputs"][0]["data"] == [7]
    assert metadata.json()["inputs"][0]["shape"] == [-1, 8, 8]
    assert unknown.status_code == 404
    assert "digits, Sums-2" in unknown.json()["error"]


@pytest.mark.parametrize(("path", "limit"), [("/events", 64), ("/events/digits", 64), ("/events/sums", 2)])
async def test_each_model_has_its_own_events(client: httpx.AsyncClient, path: str, limit: int) -> None:
    async with client.stream("GET", path) as answer:
        told = ""
        async for some in answer.aiter_text():
            told += some
            if '"depth"' in told:
                break

    assert f'"max_images_per_request":{limit},' in told


async def test_the_description_has_the_path_with_a_model(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    named = paths["/predict/{model}"]["post"]

    assert named["requestBody"] == paths["/predict"]["post"]["requestBody"]
    assert [one["name"] for one in named["parameters"] if one["in"] == "path"] == ["model"]


async def test_a_model_whose_batcher_dies_is_named_and_the_other_goes_on(
    models: Models, client: httpx.AsyncClient
) -> None:
    # given: both are ready, then an image ends the one batcher of a model
    ready = (await client.get("/health/ready")).json()
    dying = asyncio.create_task(add(client, 255, 0))
    await until_ready(client, 503)

    # when
    said = (await client.get("/health/ready")).json()["detail"]
    statuses = [
        (await client.get(path)).status_code
        for path in ("/health/ready/digits", "/health/ready/sums", "/v2/health/ready", "/v2/models/digits/ready")
    ]
    drawn, added = await draw(client), await add(client, 3, 4)
    models.start_batcher_of_sums()
    died = await dying
    dead, of_digits, top = await models.tools("tools.dead", "tools.dead digits", "tools.top sums --once")

    # then: what it ended is given up, and listed as this model's
    assert ready == {"status": "ready", "workers": 2, "models": {"digits": {"workers": 1}, "sums": {"workers": 1}}}
    assert said.startswith("sums: no batcher is alive")
    assert statuses == [200, 503, 503, 200]
    assert [answer.status_code for answer in (drawn, added)] == [200, 503]
    assert (died.status_code, died.json()["code"]) == (500, "model_failed")
    assert re.search(r"^\S+  sums  \S+  model_failed: ", dead.stdout)
    assert of_digits.stdout == ""
    assert "queue sums" in top.stdout
