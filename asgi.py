"""One HTTP request as the server hands it over and the answer as it takes it: no more than the hot path needs."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope


class Incoming:
    """A request.

    headers: by lower-case name; of one that is repeated the values joined by commas (RFC 9110, 5.3).
    """

    __slots__ = ("_receive", "headers")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            self.headers[name] = f"{self.headers[name]}, {value}" if name in self.headers else value

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
    """A response whose headers are ready to be sent: names in lower case.

    code: what it is counted as.
    """

    code = "ok"

    def __init__(self, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]

    def add(self, name: bytes, value: str) -> None:
        """Add a header."""
        self.raw_headers.append((name, value.encode("latin-1")))
