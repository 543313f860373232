"""A uvicorn server in the test's own process, stopped while its loop stands still."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import uvicorn
import uvloop

from draining import Draining

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
GET = b"GET / HTTP/1.1\r\nHost: service\r\n\r\n"
PATIENCE_S = 10.0


class Stopping:
    """The server, and clients that connect as those of another process do: the loop has no turn meanwhile.

    begun: how often it was said that the process is not ready any more.
    """

    def __init__(self, server: uvicorn.Server, sockets: list[socket.socket] | None) -> None:
        self.begun = 0
        self.draining = Draining(server, delay_s=0, on_begin=self._count)
        self._server = server
        self._sockets = sockets
        self._address = server.servers[0].sockets[0].getsockname()

    def connect(self, sent: bytes = b"") -> socket.socket:
        client = socket.socket(socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET)
        client.settimeout(PATIENCE_S)
        try:
            client.connect(self._address)
        except OSError:
            client.close()
            raise
        client.sendall(sent)
        return client

    async def stop(self) -> float:
        """Stop the server; return how long it took."""
        started_s = time.monotonic()
        await self._server.shutdown(self._sockets)
        return time.monotonic() - started_s

    async def until_closing(self) -> None:
        """Wait until nobody listens any more."""
        while self._server.servers[0].sockets:
            await asyncio.sleep(0)

    def _count(self) -> None:
        self.begun += 1


def play(
    loop: str,
    scenario: Callable[[Stopping], Awaitable[None]],
    *,
    sockets: list[socket.socket] | None = None,
    **how: Any,
) -> None:
    """Run a scenario with a server on a loop of this kind."""

    async def run() -> None:
        config = uvicorn.Config(_say_ok, lifespan="off", log_config=None, **({"port": 0} | how))
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets)
        stopping = Stopping(server, sockets)
        stopping.draining.install()
        async with asyncio.timeout(PATIENCE_S):
            await scenario(stopping)

    with _own_signal_handler(), asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())


def received(client: socket.socket) -> bytes:
    """Return all that comes until the connection is closed; a reset is a ConnectionResetError."""
    with closing(client):
        return b"".join(iter(lambda: client.recv(65536), b""))


async def first_answer(client: socket.socket) -> bytes:
    """Return an answer after which the connection may stay."""
    answer = b""
    while not answer.endswith(b"ok"):
        answer += await asyncio.to_thread(client.recv, 65536)
    return answer


def is_last_answer(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200") and b"connection: close\r\n" in answer.lower() and answer.endswith(b"ok")


async def _say_ok(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def _own_signal_handler() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
