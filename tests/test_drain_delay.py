"""What an api process does between SIGTERM and its end, and how long that takes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from config import Settings
from tests.balancer import read_message
from tests.connections import post
from tests.fleet import until
from tests.questions import Sums
from tests.stack import Stack, until_in_flight, until_ready
from tools.service import free_port

BATCH_S = 0.3
SETTINGS = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_LOG_LEVEL": "error"}
READINESS = ("/health/ready", "/health/ready/model", "/v2/health/ready", "/v2/models/model/ready")
STOP_S = 1.0
"""What a process may take to stop beyond its delay and its grace."""


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Redis and a batcher that takes a while; each test has an api of its own."""
    stack = Stack(tmp_path_factory.mktemp("s"))
    stack.start_redis()
    stack.start_batcher(MICROBATCH_SIMULATED_BATCH_S=str(BATCH_S), **SETTINGS)
    yield stack
    stack.kill()


class Api:
    """An api process, and a client that makes a connection for each request."""

    def __init__(self, stack: Stack, **settings: str) -> None:
        self.port = free_port()
        self.process = stack.start_api_on(self.port, **SETTINGS, **settings)
        limits = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", limits=limits, trust_env=False)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 30)

    async def is_draining(self) -> bool:
        return (await self.client.get("/health/ready")).status_code == 503

    async def connect(self, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        return reader, writer

    async def predict(self) -> httpx.Response:
        question = Sums()(1)
        return await self.client.post(
            "/predict", content=question.body, headers={"Content-Type": question.content_type}
        )


@asynccontextmanager
async def started(stack: Stack, *, delay_s: float = 0.0, grace_s: float = 5.0) -> AsyncIterator[Api]:
    api = Api(stack, MICROBATCH_DRAIN_DELAY_S=str(delay_s), MICROBATCH_SHUTDOWN_GRACE_S=str(grace_s))
    async with api.client:
        await until_ready(api.client)
        yield api


async def test_during_the_delay_an_api_is_not_ready_and_serves_until_a_second_sigterm(queue: Stack) -> None:
    async with started(queue, delay_s=60) as api:
        asked = asyncio.create_task(api.predict())
        await until_in_flight(api.client, 1)
        api.process.terminate()
        await until("it is not ready", api.is_draining)

        answers = [await api.client.get(path) for path in READINESS]
        status = (await api.client.get("/v1/models/model")).json()["model_version_status"][0]
        others = [await asked, await api.predict(), await api.client.get("/health/live")]
        told_s = time.monotonic()
        api.process.terminate()
        code = await api.ended()

    assert [answer.status_code for answer in answers] == [503] * len(READINESS)
    assert all("shutting down" in answer.text for answer in answers)
    assert status["state"] == "UNLOADING"
    assert "shutting down" in status["status"]["error_message"]
    assert [answer.status_code for answer in others] == [200] * 3
    assert all(answer.headers["connection"] == "close" for answer in [*answers, *others])
    assert code == 0
    assert time.monotonic() - told_s < STOP_S


@pytest.mark.long
async def test_ctrl_c_has_no_delay(queue: Stack) -> None:
    async with started(queue, delay_s=60) as api:
        took_s = await stopped(api, signal.SIGINT)

    assert took_s < STOP_S


@pytest.mark.long
async def test_ctrl_c_ends_the_delay(queue: Stack) -> None:
    async with started(queue, delay_s=60) as api:
        api.process.terminate()
        await until("it is not ready", api.is_draining)

        took_s = await stopped(api, signal.SIGINT)

    assert took_s < STOP_S


@pytest.mark.long
async def test_the_delay_lasts_as_long_as_was_said(queue: Stack) -> None:
    delay_s = 1.5
    async with started(queue, delay_s=delay_s) as api:
        took_s = await stopped(api, signal.SIGTERM)

    assert delay_s <= took_s < delay_s + STOP_S


@pytest.mark.long
@pytest.mark.parametrize("delay_s", [0.0, 1.0])
async def test_listeners_uploads_and_silent_clients_do_not_put_off_the_end(queue: Stack, delay_s: float) -> None:
    grace_s, question = 1.0, Sums()(1)
    async with started(queue, delay_s=delay_s, grace_s=grace_s) as api:
        whole = post(api.port, question.body, question.content_type).raw
        sent = [
            b"",
            whole[:10],  # a part of the head
            whole[: -len(question.body)],  # the head and no body
            b"GET /events HTTP/1.1\r\nHost: service\r\n\r\n",
            whole,
        ]
        connections = [await api.connect(part) for part in sent]
        await until_in_flight(api.client, 1)
        took_s = await stopped(api, signal.SIGTERM)
        silent, half, upload, events, answer = [await everything(reader) for reader, _writer in connections]
        for _reader, writer in connections:
            writer.close()

    assert (silent, half) == (b"", b"")
    assert status_of(upload) == 503
    assert b"shutting down" in upload
    assert status_of(events) == 200
    assert events.endswith(b"0\r\n\r\n")  # the end of a stream that was not cut
    assert status_of(answer) == 200
    assert took_s < delay_s + grace_s + STOP_S


@pytest.mark.long
async def test_a_refusal_that_comes_before_the_end_of_the_body_is_not_lost_to_a_reset(queue: Stack) -> None:
    """A connection that is closed while its client still sends is reset, and so may the answer be."""
    body = bytes(Settings.model_fields["max_body_bytes"].default + 1)
    async with started(queue, delay_s=60) as api:
        api.process.terminate()
        await until("it is not ready", api.is_draining)
        reader, writer = await api.connect(post(api.port, body, "image/png").raw)
        await writer.drain()
        answers = [await read_message(reader)]
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: service\r\n\r\n")
        answers.append(await everything(reader))
        writer.close()

    assert [status_of(answer) for answer in answers] == [413, 200]
    assert [b"connection: close\r\n" in answer for answer in answers] == [False, True]


async def everything(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the connection is closed; a reset is a ConnectionResetError."""
    return await asyncio.wait_for(reader.read(), 10)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def stopped(api: Api, number: signal.Signals) -> float:
    """Send a signal; return how long an orderly end takes."""
    told_s = time.monotonic()
    api.process.send_signal(number)
    assert await asyncio.to_thread(api.process.wait, 30) == 0
    return time.monotonic() - told_s
