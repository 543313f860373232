"""A small load balancer: it asks for health, keeps connections, and tries elsewhere only what was refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

CHECK_EVERY_S = 0.2
LONGEST_CHECK_S = 1.0
HEALTH = b"GET /health/ready HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n"
BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Balancer:
    """Forwards each request to the next api that was ready when last asked.

    reused: how many requests went out on a connection that had carried one. failures: of requests that were sent.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._idle: dict[int, list[Connection]] = {port: [] for port in ports}
        self._turn = 0
        self.up: set[int] = set()
        self.reused = 0
        self.failures: Counter[str] = Counter()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Listen on a port, which is returned."""
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        checks = [asyncio.create_task(self._watch(port)) for port in self._idle]
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            for check in checks:
                check.cancel()
            server.close()
            for _reader, writer in (one for idle in self._idle.values() for one in idle):
                writer.transport.abort()

    async def _watch(self, port: int) -> None:
        while True:
            answer = b""
            with suppress(OSError, EOFError, TimeoutError):
                async with asyncio.timeout(LONGEST_CHECK_S):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(HEALTH)
                    answer = await reader.read()
                    writer.close()
            (self.up.add if b" 200 " in answer[:20] else self.up.discard)(port)
            await asyncio.sleep(CHECK_EVERY_S)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client until it goes away."""
        with suppress(OSError, EOFError):
            while True:
                writer.write(await self._forward(await read_message(reader)))
        writer.transport.abort()

    async def _forward(self, request: bytes) -> bytes:
        """Send a request to an api; return its answer."""
        for port in self._next_ports():
            try:
                upstream = await self._connection(port)
            except ConnectionRefusedError:
                continue
            try:
                upstream[1].write(request)
                answer = await read_message(upstream[0])
            except (OSError, EOFError) as exc:
                self.failures[type(exc).__name__] += 1
                return BAD_GATEWAY
            if b"\r\nconnection: close\r\n" in answer.lower():
                upstream[1].close()
            else:
                self._idle[port].append(upstream)
            return answer
        self.failures["no api is up"] += 1
        return BAD_GATEWAY

    def _next_ports(self) -> list[int]:
        """Return the apis that are up, another one first each time."""
        ports = sorted(self.up)
        self._turn += 1
        first = self._turn % max(1, len(ports))
        return ports[first:] + ports[:first]

    async def _connection(self, port: int) -> Connection:
        """Take one that is idle and was not closed, else make one."""
        while self._idle[port]:
            reader, writer = self._idle[port].pop()
            if not reader.at_eof():
                self.reused += 1
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", port)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one request or answer, whose length its head says."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = (line.partition(b":") for line in head.lower().split(b"\r\n"))
    length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
    return head + await reader.readexactly(length)
