"""How an answer leaves: whole, in one write, whatever the connection is to do afterwards."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.stack import SEVEN, Stack, until_answering, until_ready

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def connection(shared_stack: Stack) -> AsyncIterator[Connection]:
    async with shared_stack.client() as client:
        await until_ready(client)
    reader, writer = await asyncio.open_unix_connection(f"{shared_stack.folder}/api.sock")
    yield reader, writer
    writer.close()


def request(more: str = "", body: bytes = SEVEN) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: s\r\nContent-Type: image/png\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return await reader.readexactly(length)


async def test_each_answer_arrives_whole_at_the_first_read(connection: Connection) -> None:
    reader, writer = connection
    for _ in range(50):
        writer.write(request())
        answer = await asyncio.wait_for(reader.read(65_536), 10)

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"]}]}")


@pytest.mark.parametrize(("body", "status"), [(SEVEN, b"200"), (b"no image", b"415")])
async def test_a_connection_that_is_to_close_gets_its_answer_first(
    connection: Connection, body: bytes, status: bytes
) -> None:
    reader, writer = connection
    writer.write(request("Connection: close\r\n", body))
    answer = await asyncio.wait_for(reader.read(), 10)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(b"}")


async def test_requests_sent_at_once_on_a_connection_are_answered_in_order(connection: Connection) -> None:
    reader, writer = connection
    writer.write(request() + request(body=b"no image") + request())
    answers = [await asyncio.wait_for(read_answer(reader), 10) for _ in range(3)]

    assert [b'"label":7' in answer for answer in answers] == [True, False, True]


async def test_a_connection_is_closed_once_it_has_been_idle_for_as_long_as_uvicorn_was_told(stack: Stack) -> None:
    # given
    place = f"{stack.folder}/api.sock"
    stack.start_redis()
    stack.start(sys.executable, "-m", "uvicorn", "api:app", "--uds", place, "--timeout-keep-alive", "1")
    async with stack.client() as client:
        await until_answering(client)
    reader, writer = await asyncio.open_unix_connection(place)

    # when: it is used for longer than that, and then no more
    for _ in range(3):
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: s\r\n\r\n")
        assert await asyncio.wait_for(read_answer(reader), 10) == b'{"status":"alive"}'
        answered_s = time.monotonic()
        await asyncio.sleep(0.6)
    rest = await asyncio.wait_for(reader.read(), 10)
    idle_s = time.monotonic() - answered_s
    writer.close()

    assert rest == b""
    assert 0.95 <= idle_s < 1.5  # libuv counts whole milliseconds from the start of a turn


@pytest.mark.parametrize("there", [0, 20], ids=["nothing of it", "a part"])
async def test_a_body_that_does_not_come_is_408(shared_stack: Stack, there: int) -> None:
    place = f"{shared_stack.folder}/hasty.sock"
    shared_stack.start_api_at(place, MICROBATCH_BODY_TIMEOUT_S="0.5")
    await until_there(place)
    reader, writer = await asyncio.open_unix_connection(place)
    began_s = time.monotonic()
    writer.write(request()[: there - len(SEVEN)])
    answer = await asyncio.wait_for(read_answer(reader), 10)
    took_s = time.monotonic() - began_s
    writer.close()

    assert b'"code":"body_timeout"' in answer
    assert 0.5 <= took_s < 1.5


async def until_there(place: str) -> None:
    transport = httpx.AsyncHTTPTransport(uds=place)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        await until_ready(client)
