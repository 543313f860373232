"""A long payload and its job go to Redis in one transaction, whatever Redis says of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobs import JobQueue
from tests import test_jobs
from tests.checks_of_long_payloads import long_job
from tests.scene import Scene, opened
from tests.test_jobs import Line, request

server = test_jobs.server
EXEC = b"*1\r\n$4\r\nEXEC\r\n"


@asynccontextmanager
async def held_up(place: Path, server: str, scene: Scene) -> AsyncIterator[None]:
    """Listen there for the server; once all of a transaction is queued its memory ends, and then comes the EXEC."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies, requests = await asyncio.open_unix_connection(server.removeprefix("unix://"))
        asked, queued = b"", asyncio.Event()

        async def answer() -> None:
            said = b""
            while data := await replies.read(65_536):
                said += data
                if said.count(b"+QUEUED") == 2:
                    queued.set()
                writer.write(data)

        answering = asyncio.create_task(answer())
        while data := await reader.read(65_536):
            asked += data
            if not asked.endswith(EXEC):
                requests.write(data)
                continue
            requests.write(data.removesuffix(EXEC))
            await queued.wait()
            await scene.redis.config_set("maxmemory", 1)
            requests.write(EXEC)
        answering.cancel()
        requests.close()
        writer.close()

    async with await asyncio.start_unix_server(serve, place):
        yield


@pytest.mark.parametrize("server", list(test_jobs.SERVERS), indirect=True)
async def test_memory_that_ends_within_a_transaction_is_told_as_such(server: str, tmp_path: Path) -> None:
    """Some servers look at their memory again at EXEC, and then say that they discard it all; some do not."""
    one = request(long_job(3))
    async with opened(server) as scene, held_up(tmp_path / "s", server, scene):
        queue = JobQueue(f"unix://{tmp_path}/s", name=scene.name, timeout_s=5)
        try:
            admissions = await Line(queue).submit(one)
        finally:
            await scene.redis.config_set("maxmemory", 0)
            await queue.close()

        assert admissions in (["no_memory"], ["accepted"])
        assert await scene.ask("HLEN data") == (admissions == ["accepted"])
