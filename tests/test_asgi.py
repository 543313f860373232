"""How an answer leaves: whole, in one write, whatever the connection is to do afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.stack import SEVEN, Stack, until_ready

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
