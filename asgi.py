"""One HTTP request as the server hands it over and the answer as it takes it: no more than the hot path needs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from budget import Share
from errors import ServiceError
from ids import SAFE_ID, new_uuid
from metrics import Metrics
from tracing import RequestTrace

LONG_BYTES = 64 * 1024
"""Of an answer: from here on it is written without a copy, and counted until it is sent."""


class Incoming:
    """A request.

    headers: by lower-case name; of one that is repeated the values joined by commas (RFC 9110, 5.3).
    uuid: what its jobs' UUIDs are made of. images, body_bytes: once they are known. trace: None where traces are off.
    metrics: of who counts it, if anybody does.
    """

    __slots__ = ("_receive", "body_bytes", "headers", "images", "metrics", "scope", "started_s", "trace", "uuid")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.started_s = time.monotonic()
        self.scope = scope
        self._receive = receive
        self.headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value
        self.uuid = new_uuid()
        self.images = self.body_bytes = 0
        self.trace: RequestTrace | None = None
        self.metrics: Metrics | None = None

    def count_in(self, metrics: Metrics) -> None:
        """Have it counted there, as in progress until it is answered."""
        self.metrics = metrics
        metrics.in_progress += 1

    @property
    def id(self) -> str:
        """Its X-Request-ID where the client gave a safe one, else its UUID."""
        given = self.headers.get("x-request-id")
        return given if given and SAFE_ID.fullmatch(given) else self.uuid

    @property
    def context(self) -> str:
        """What travels with its jobs, so that whoever runs them adds to its trace; "" where it has none."""
        return "" if self.trace is None else self.trace.context

    @property
    def is_whole(self) -> bool:
        """Whether the whole body is known to be there, so that receiving it waits for nothing; uvicorn tells."""
        cycle = getattr(self._receive, "__self__", None)
        return type(cycle) is RequestResponseCycle and not cycle.more_body

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises ClientDisconnect.
        """
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message

    async def until_gone(self) -> None:
        """Wait until the client goes away; the body must have been read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Answer(Response):
    """A response whose headers are ready to be sent: names in lower case. error: the one that it tells of."""

    error: ServiceError | None = None
    _held: Share | None = None

    def __init__(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]

    def hold_until_sent(self, share: Share) -> None:
        """Have a long body counted until the client has taken it; a short one fits into the connection's buffers."""
        if len(self.body) > LONG_BYTES:
            self._held = share.pass_on(len(self.body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, under uvicorn in one write: head and body by themselves cost each side a system call more."""
        cycle = getattr(send, "__self__", None)
        if type(cycle) is not RequestResponseCycle:
            with self._held or nullcontext():
                await super().__call__(scope, receive, send)
            return
        together = _Together(cycle.transport)
        cycle.transport = together  # type: ignore[assignment]  # it does what is asked of one meanwhile
        try:
            await super().__call__(scope, receive, send)
        finally:
            together.flush()
            cycle.transport = together.transport
            if cycle.body:
                forget_body(cycle)
        if self._held is not None:
            with self._held:
                await cycle.flow.drain()

    def add(self, name: bytes, value: str) -> None:
        """Add a header."""
        self.raw_headers.append((name, value.encode("latin-1")))


def forget_body(cycle: object) -> None:
    """Drop what uvicorn has read of a body that nobody wants: a connection keeps it until its next request."""
    if type(cycle) is RequestResponseCycle and cycle.body:
        cycle.body.clear()


class _Together:
    """Stands in for a connection while one answer is written to it, and writes it at once."""

    __slots__ = ("_parts", "transport")

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> None:
        """Keep a part."""
        self._parts.append(part)

    def flush(self) -> None:
        """Write what is kept."""
        if self._parts:
            if len(self._parts[-1]) > LONG_BYTES:
                self.transport.writelines(self._parts)
            else:
                self.transport.write(b"".join(self._parts))
            self._parts = []

    def close(self) -> None:
        """Write, then close."""
        self.flush()
        self.transport.close()
