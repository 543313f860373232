"""The log: one event a line, with ids, sizes and times, and nothing that is nobody's business."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from access import Refusals
from logs import HumanFormatter, JsonFormatter
from tests.marked import MARK
from tests.stack import ROOT, Stack, npy, until_ready
from tools.service import free_port

MODEL = "python:tests.moods:dazzled"
PASSWORD, KEY, INSIDE = "secret-password", "secret-key-of-a-client", "secret text in an image"
NPY = {"Content-Type": "application/x-npy"}
WHITE = npy(np.full((8, 8, 3), 255, np.uint8))
ROUTES = [
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/docs"),
    ("GET", "/metrics"),
    ("GET", "/results/none"),
    ("GET", "/nowhere"),
    ("GET", "/predict"),
    ("POST", "/predict"),
    ("POST", "/v1/models/model:predict"),
    ("GET", "/v1/models/other"),
    ("GET", "/v2/models/model"),
    ("POST", "/v2/models/model/infer"),
]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start a Redis with a password, and a batcher and an api that tell everything, uvicorn as it comes."""
    stack = Stack(tmp_path_factory.mktemp("logged"), logged=True)
    settings = {
        "REDIS_URL": f"unix://:{PASSWORD}@{stack.folder}/redis.sock",
        "MICROBATCH_LOG_LEVEL": "debug",
        "MICROBATCH_MODEL": MODEL,
        "MICROBATCH_INPUT_SHAPE": "8,8,3",
    }
    stack.start_redis("--requirepass", PASSWORD)
    stack.start_batcher(**settings)
    stack.start(sys.executable, "-m", "uvicorn", "api:app", "--uds", f"{stack.folder}/api.sock", **settings)
    yield stack
    stack.kill()


@pytest.fixture
async def client(logged: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with logged.client() as opened:
        await until_ready(opened)
        yield opened


def told(stack: Stack) -> list[dict[str, Any]]:
    """Return what the batcher and the api have said."""
    return [json.loads(line) for process in stack.processes[1:] for line in stack.log_of(process)]


def about(stack: Stack, **fields: object) -> list[dict[str, Any]]:
    return [line for line in told(stack) if fields.items() <= line.items()]


def image() -> bytes:
    """Return a PNG that says something besides its pixels."""
    text, stream = PngInfo(), io.BytesIO()
    text.add_text("Comment", INSIDE)
    Image.effect_noise((30, 30), 90).save(stream, "PNG", pnginfo=text)
    return stream.getvalue()


async def test_every_line_of_both_processes_is_one_object_with_time_level_logger_and_event(
    logged: Stack, client: httpx.AsyncClient
) -> None:
    await client.post("/predict", content=WHITE, headers=NPY)

    lines = told(logged)
    assert {"uvicorn.error", "api", "batcher"} <= {line["logger"] for line in lines}
    assert all(line["event"] and line["level"] in ("debug", "info", "warning") for line in lines)
    assert all(datetime.fromisoformat(line["time"]).utcoffset() is not None for line in lines)


async def test_a_failed_request_is_told_once_with_its_ids_code_sizes_and_time(
    logged: Stack, client: httpx.AsyncClient
) -> None:
    await client.post("/predict", content=WHITE, headers=NPY | {"X-Request-ID": "order-7/a"})

    [line] = about(logged, request_id="order-7/a")
    assert (line["level"], line["status"], line["code"]) == ("warning", 500, "model_failed")
    assert (line["images"], line["bytes"]) == (1, len(WHITE))
    assert 0.2 <= line["seconds"] < 15
    [batch] = [one for one in about(logged, logger="calls", level="warning") if line["uuid"] in one["jobs"]]
    assert (batch["size"], len(batch["batch_id"])) == (1, 12)
    assert "too bright" in batch["exception"]
    assert batch["worker"]


async def test_what_succeeds_is_told_when_debugging_and_uvicorn_tells_of_no_request(
    logged: Stack, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/predict", content=image(), headers={"Content-Type": "image/png", "X-Request-ID": "ok"})

    assert answer.status_code == 200
    [line] = about(logged, request_id="ok")
    assert (line["level"], line["status"], line["uuid"]) == ("debug", 200, answer.json()["id"])
    assert [one["size"] for one in about(logged, logger="calls", level="debug")][-1] == 1
    assert about(logged, logger="uvicorn.access") == []


async def test_no_line_holds_a_password_a_key_an_image_or_a_prediction(
    logged: Stack, client: httpx.AsyncClient
) -> None:
    picture = image()
    encoded = base64.b64encode(picture).decode()
    document = {"instances": [{"b64": encoded}]}
    answers = [
        await client.post("/predict", content=picture, headers={"Content-Type": "image/png", "Idempotency-Key": KEY}),
        await client.post("/predict", json=document),
        await client.post("/v1/models/model:predict", json=document),
        await client.post("/predict", files={"a": picture, "b": picture[:100], INSIDE: b"no image"}),
        await client.post("/predict", content=picture[:-200], headers={"Content-Type": "image/png"}),
    ]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 422]
    text = "\n".join(line for process in logged.processes[1:] for line in logged.log_of(process))
    secrets = [PASSWORD, KEY, INSIDE, encoded[:40], encoded[-40:], repr(picture[100:110])[2:-1], "brightness"]
    assert [secret for secret in secrets if secret in text] == []


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_an_id_that_the_client_gives_comes_back_from_every_route(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path, headers={"X-Request-ID": "given.1:2~3"})

    assert answer.headers.get_list("x-request-id") == ["given.1:2~3"]


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, 'a"b', "<b>", "ümlaut"])
async def test_an_id_that_a_log_could_misread_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    headers = [(b"Content-Type", b"application/x-npy"), (b"X-Request-ID", given.encode())]
    answer = await client.post("/predict", content=npy(np.ones((8, 8, 3), np.uint8)), headers=headers)

    assert answer.headers["x-request-id"] == answer.json()["id"]


# The form of a line


def written(*, terminal: bool, form: str = "auto") -> str:
    """Return what a process writes that logs one line."""
    code = (
        f"import logging, logs; logs.set_up_logging('info', '{form}', worker='w');"
        "logging.getLogger('a').warning('it\\nhappened', extra={'size': 3, 'path': '/a b'})"
    )
    ours, theirs = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=theirs):
        os.close(theirs)
    try:
        return os.read(ours, 10_000).decode()
    finally:
        os.close(ours)


def test_a_line_is_for_people_on_a_terminal_and_json_elsewhere_unless_told() -> None:
    human, piped, told_so = written(terminal=True), written(terminal=False), written(terminal=True, form="json")

    assert "it\\nhappened size=3" in human
    assert len(human.splitlines()) == 1
    fields = {"level": "warning", "logger": "a", "event": "it\nhappened", "worker": "w", "size": 3, "path": "/a b"}
    assert fields.items() <= json.loads(piped).items()
    assert fields.items() <= json.loads(told_so).items()


def test_what_cannot_be_written_as_it_is_makes_a_line_all_the_same() -> None:
    odd = {"path": Path("/x"), "huge": 2**70, "torn": "\udc80", "lines": "a\nb"}
    record = logging.makeLogRecord({"name": "a", "msg": "odd", **odd})

    assert {"path": "/x", "huge": 2**70, "lines": "a\nb"}.items() <= json.loads(
        JsonFormatter({}).format(record)
    ).items()
    assert len(HumanFormatter().format(record).encode(errors="strict").splitlines()) == 1


def test_of_refusals_in_a_flood_one_a_second_is_told_and_says_how_many_were_not() -> None:
    refusals = Refusals()

    first, *flood = [refusals.left_out("queue_full", 100 + number / 1000) for number in range(900)]
    other, later = refusals.left_out("unavailable", 100.5), refusals.left_out("queue_full", 101.1)

    assert (first, other, later) == (0, 0, 899)
    assert flood == [None] * 899
    assert [refusals.left_out("invalid_image", 101.2) for _ in range(10)] == [0] * 10


def test_the_children_of_the_runner_write_for_people_where_it_runs_on_a_terminal(mark: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tools.run", "--batchers", "0", "--port", str(free_port())]
    runner = subprocess.Popen(command, cwd=ROOT, env={**os.environ, MARK: mark}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    while b"Redis is there" not in said:
        said += os.read(ours, 10_000)
    runner.terminate()
    with suppress(OSError):  # nobody has the other end any more
        while True:
            said += os.read(ours, 10_000)

    assert runner.wait(15) == 0
    lines = [line.partition("| ")[2] for line in said.decode().splitlines() if "| " in line]
    assert [line for line in lines if line.startswith("{")] == []
