"""A load generator: prepared requests over kept-alive connections, closed loop or open loop.

It parses no more of an answer than where it ends and its status, so that one core sends more than an api can take.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

LENGTH = b"content-length: "
HEAD_END = b"\r\n\r\n"
LAST_ANSWERS_S = 5.0
CLOSED = 0
"""The status that a connection counts with which the server has closed."""


@dataclass(slots=True)
class Load:
    """What one run of the generator saw. latencies_s: of the answered requests, in the order of their answers."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)

    def add(self, status: int, latency_s: float) -> None:
        """Count an answer."""
        self.latencies_s.append(latency_s)
        self.statuses[status] = self.statuses.get(status, 0) + 1

    @property
    def rate(self) -> float:
        """Return answers a second, of status 200 only."""
        return self.statuses.get(200, 0) / self.seconds

    @property
    def errors(self) -> int:
        """Return how many answers were no predictions."""
        return sum(count for status, count in self.statuses.items() if status != 200)

    def quantile_ms(self, part: float) -> float:
        """Return a quantile of the latencies in milliseconds."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000 if ordered else float("nan")


class Client(asyncio.Protocol):
    """One connection, one request at a time.

    head: of the last answer.
    """

    def __init__(self, answered: Callable[[Client, int], None]) -> None:
        self._answered = answered
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.sent_s = 0.0
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's family

    def connection_lost(self, _exc: Exception | None) -> None:
        """Note that the server has closed it, as it does with what is idle for seconds."""
        self._transport = None

    @property
    def is_open(self) -> bool:
        """Whether it can send."""
        return self._transport is not None

    def send(self, request: bytes, sent_s: float) -> None:
        """Send a request; sent_s: when it was meant to be sent."""
        self.sent_s = sent_s
        if self._transport:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take in an answer; say so once it is whole."""
        self._received = received = self._received + data if self._received else data
        end = received.find(HEAD_END)
        if end < 0:
            return
        at = received[:end].lower().find(LENGTH)
        length = int(received[at + len(LENGTH) : received.find(b"\r", at)]) if at >= 0 else 0
        if len(received) < end + len(HEAD_END) + length:
            return
        self._received, self.head = b"", received[:end]
        self._answered(self, int(received[9:12]))

    def close(self) -> None:
        """End the connection."""
        if self._transport:
            self._transport.close()


def request_bytes(
    url: str, body: bytes, content_type: str, *, path: str = "/predict", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole POST."""
    fields = {"Host": urlsplit(url).netloc, "Content-Type": content_type, **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def closed_loop(url: str, requests: Sequence[bytes], *, clients: int, seconds: float) -> Load:
    """Have so many clients send a request as soon as their last one is answered, each the next of `requests`."""
    load = Load(seconds)
    place, end_s = 0, float("inf")

    def answered(client: Client, status: int) -> None:
        nonlocal place
        now_s = time.perf_counter()
        if now_s >= end_s:
            return
        load.add(status, now_s - client.sent_s)
        place = (place + 1) % len(requests)
        client.send(requests[place], now_s)

    opened = await _connect(url, clients, answered)
    started_s = time.perf_counter()
    end_s = started_s + seconds
    for number, client in enumerate(opened):
        client.send(requests[number % len(requests)], started_s)
    await asyncio.sleep(seconds)
    if closed := sum(not client.is_open for client in opened):
        load.statuses[CLOSED] = closed
    for client in opened:
        client.close()
    return load


async def open_loop(url: str, requests: Sequence[bytes], *, rate: float, seconds: float, clients: int = 256) -> Load:
    """Send at a mean rate with Poisson arrivals, whatever comes back; latency counts from the intended moment.

    clients: the most on their way at once; what comes then waits here, and that counts.
    """
    load = Load(seconds)
    line = _Line(load, requests)
    line.free += await _connect(url, clients, line.answered)
    opened = list(line.free)
    chance = random.Random(1)  # noqa: S311  # the same arrivals in every run
    next_s = started_s = time.perf_counter()
    while next_s < started_s + seconds:
        await asyncio.sleep(max(0.0, next_s - time.perf_counter()))
        while next_s <= time.perf_counter():
            line.send(next_s)
            next_s += chance.expovariate(rate)
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_ANSWERS_S):
            await line.until_empty(clients)
    for client in opened:
        client.close()
    return load


class _Line:
    """The clients of an open loop: who is free, and what waits for one."""

    def __init__(self, load: Load, requests: Sequence[bytes]) -> None:
        self.free: list[Client] = []
        self.gone = 0
        self._late: deque[float] = deque()
        self._load = load
        self._requests = itertools.cycle(requests)
        self._answer = asyncio.Event()

    def send(self, intended_s: float) -> None:
        """Send the next request, as soon as a client is free."""
        while self.free:
            client = self.free.pop()
            if client.is_open:
                client.send(next(self._requests), intended_s)
                return
            self.gone += 1
        self._late.append(intended_s)

    def answered(self, client: Client, status: int) -> None:
        """Count an answer, and send what waits."""
        self._load.add(status, time.perf_counter() - client.sent_s)
        self.free.append(client)
        self._answer.set()
        if self._late:
            self.send(self._late.popleft())

    async def until_empty(self, clients: int) -> None:
        """Wait for the last answers."""
        while len(self.free) + self.gone < clients:
            self._answer.clear()
            await self._answer.wait()


async def _connect(url: str, clients: int, answered: Callable[[Client, int], None]) -> list[Client]:
    address, loop = urlsplit(url), asyncio.get_running_loop()
    opened = []
    for _ in range(clients):
        _transport, client = await loop.create_connection(
            lambda: Client(answered), str(address.hostname), address.port or 80
        )
        opened.append(client)
    return opened
