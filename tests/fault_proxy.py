"""A proxy between our processes and a real server that does to single replies, on order, what networks do.

It speaks RESP2 over unix sockets, in a thread of its own, so that a test may block. Commands go by the names of the
scripts in capitals (SUBMIT, CLAIM, ...); a BLPOP of an api's bell is LISTEN; all others go by their own names.
Requests are passed on as they come and answered in order, as the server does it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import hiredis
import numpy as np

from tests.faults import Fault, Order
from wire import _read_scripts

LONGEST_LINE_BYTES = 1 << 20
DRAIN_S = 2.0
BROKEN = (asyncio.IncompleteReadError, OSError)


class FaultProxy:
    """Listens at one unix socket and passes all on to another; `with` runs it."""

    def __init__(self, listen: Path, server: Path, *, seed: int) -> None:
        self.place = listen
        self._server = server
        self._dice = np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._orders: list[Order] = []
        self._last: dict[str, dict[int, bytes]] = {}
        self._links: set[_Link] = set()
        self._guests: set[asyncio.Task[Any] | None] = set()  # kept, since nobody else may hold them
        self._names = {key.encode(): name.upper() for name, script in _read_scripts().items() for key in script}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._door: asyncio.Server | None = None

    def __enter__(self) -> Self:
        """Start to listen."""
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        """End all connections and the thread."""
        self._do(self._close())
        self._do(asyncio.sleep(0.05))  # aborted transports are closed by the loop's next turns
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def order(
        self, command: str, fault: Fault, *, times: int = 1, chance: float = 1.0, where: bytes = b"", donor: str = ""
    ) -> Order:
        """Have the next commands of this name struck."""
        order = Order(command, fault, times, chance, where, donor or command)
        with self._lock:
            self._orders.append(order)
        return order

    def withdraw(self) -> None:
        """Forget all orders."""
        with self._lock:
            self._orders.clear()

    def cut_all(self) -> None:
        """End all connections."""
        self._do(self._cut_all())

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse new connections, and end those that are there."""
        self._do(self._close())
        yield
        self._do(self._open())

    def name(self, request: bytes) -> str:
        """Return by which name a request goes."""
        reader = hiredis.Reader()
        reader.feed(request)
        verb, *rest = reader.gets()
        if verb in (b"EVALSHA", b"EVAL"):
            return self._names.get(rest[0], "EVAL")
        if verb == b"BLPOP" and not rest[0].endswith(b":bell"):
            return "LISTEN"
        return str(verb.decode().upper())

    def take(self, command: str, request: bytes, link: int) -> Order | None:
        """Return the order that strikes this request, if any does."""
        with self._lock:
            for order in self._orders:
                if order.command != command or not order.left or order.where not in request:
                    continue
                if order.fault.foreign and not self.foreign(order.donor, link):
                    continue
                if self._dice.random() < order.chance:
                    order.left -= 1
                    return order
        return None

    def foreign(self, command: str, link: int) -> bytes:
        """Return the last reply to this command that another connection was given."""
        return next((reply for other, reply in reversed(self._last.get(command, {}).items()) if other != link), b"")

    def remember(self, command: str, link: int, reply: bytes) -> None:
        """Note a reply as one that may be delivered to others."""
        replies = self._last.setdefault(command, {})
        replies.pop(link, None)
        replies[link] = reply

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._door = await asyncio.start_unix_server(self._welcome, self.place, limit=LONGEST_LINE_BYTES)

    async def _close(self) -> None:
        assert self._door is not None
        self._door.close()
        self.place.unlink(missing_ok=True)
        await asyncio.sleep(0.02)  # who was let in before is seen by then
        while self._guests:
            await self._cut_all()
            await asyncio.sleep(0.001)

    async def _cut_all(self) -> None:
        links = list(self._links)
        for link in links:
            link.end()
        while self._links.intersection(links):
            await asyncio.sleep(0.001)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._guests.add(welcoming := asyncio.current_task())
        try:
            server = await asyncio.open_unix_connection(self._server, limit=LONGEST_LINE_BYTES)
            link = _Link(self, (reader, writer), server)
            self._links.add(link)
            try:
                await link.run()
            finally:
                link.end()
                self._links.discard(link)
        except OSError:
            writer.transport.abort()
        finally:
            self._guests.discard(welcoming)


class _Link:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._asked, self._to_client = client
        self._answered, self._to_server = server
        self._awaited: deque[tuple[str, Order | None]] = deque()
        self._closing = False

    async def run(self) -> None:
        """Pass on both ways until either side ends."""
        ways = [asyncio.create_task(self._pass_requests()), asyncio.create_task(self._pass_replies())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if self._closing:
            await asyncio.wait(ways)
        self.end()
        await asyncio.wait(ways)

    def end(self) -> None:
        """End both connections."""
        self._to_client.transport.abort()
        self._to_server.transport.abort()

    async def _pass_requests(self) -> None:
        with suppress(*BROKEN):
            while True:
                request = await read_value(self._asked)
                command = self._proxy.name(request)
                order = self._proxy.take(command, request, id(self))
                copies = order.fault.copies if order else 1
                self._awaited.extend([("", None)] * (copies - 1))
                self._awaited.append((command, order))
                self._to_server.write(request * copies)
                await self._to_server.drain()

    async def _pass_replies(self) -> None:
        with suppress(*BROKEN):
            while True:
                reply = await read_value(self._answered)
                command, order = self._awaited.popleft()
                if order is not None and order.fault.closes:
                    await self._close_with(order.fault.deliver(reply, b""))
                    return
                if command:
                    await self._deliver(command, order, reply)

    async def _deliver(self, command: str, order: Order | None, reply: bytes) -> None:
        if order is not None:
            await asyncio.sleep(order.fault.stall_s)
            self._to_client.write(order.fault.deliver(reply, self._proxy.foreign(order.donor, id(self))))
        else:
            self._proxy.remember(command, id(self), reply)
            self._to_client.write(reply)
        await self._to_client.drain()

    async def _close_with(self, last: bytes) -> None:
        """Deliver the last words and close; what the server was asked for besides is still carried out."""
        self._closing = True
        self._to_client.write(last)
        self._to_client.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self._awaited:
                    await read_value(self._answered)
                    self._awaited.popleft()


async def read_value(stream: asyncio.StreamReader) -> bytes:
    """Read one RESP2 value, a request too, as the bytes that it is."""
    line = await stream.readuntil(b"\r\n")
    kind, size = line[:1], line[1:-2]
    if kind == b"$" and int(size) >= 0:
        return line + await stream.readexactly(int(size) + 2)
    if kind == b"*" and int(size) > 0:
        return line + b"".join([await read_value(stream) for _ in range(int(size))])
    return line
