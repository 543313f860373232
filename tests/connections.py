"""Clients that make a connection for each request and count what becomes of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from tests.balancer import read_message

CLIENTS = 32
PATIENCE_S = 20.0
PAUSE_S = 0.005
"""After a connection that was refused."""


@dataclass
class Outcomes:
    """What became of requests, each on a connection of its own.

    cut: those whose connection was made, and which then had no whole answer, by what was seen instead.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    @property
    def answered(self) -> int:
        return self.statuses.total()


@dataclass(frozen=True)
class Request:
    """A request to send, and where to."""

    host: str
    port: int
    raw: bytes


def post(port: int, body: bytes, content_type: str) -> Request:
    """Return a prediction request to an api on a port of 127.0.0.1."""
    head = f"POST /predict HTTP/1.1\r\nHost: service\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return Request("127.0.0.1", port, f"{head}\r\n".encode() + body)


async def load(request: Request, outcomes: Outcomes, stopping: asyncio.Event, *, clients: int = CLIENTS) -> None:
    """Ask without a pause until told to stop."""
    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(_client(request, outcomes, stopping))


async def _client(request: Request, outcomes: Outcomes, stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        await ask(request, outcomes)


async def ask(request: Request, outcomes: Outcomes) -> None:
    """Ask once and count what became of it."""
    try:
        reader, writer = await asyncio.open_connection(request.host, request.port)
    except ConnectionRefusedError:
        outcomes.refused += 1
        await asyncio.sleep(PAUSE_S)
        return
    except OSError as exc:
        outcomes.cut[f"while connecting: {exc!r}"] += 1
        return
    try:
        async with asyncio.timeout(PATIENCE_S):
            writer.write(request.raw)
            answer = await read_message(reader)
            outcomes.statuses[int(answer.split(b" ", 2)[1])] += 1
    except (OSError, EOFError, TimeoutError) as exc:
        outcomes.cut[type(exc).__name__] += 1
    finally:
        writer.transport.abort()
