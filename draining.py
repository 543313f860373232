"""Stop an api process without resetting a connection.

On SIGTERM the process first says for `drain_delay_s` that it is not ready, and goes on serving. Then it closes its
listener, after it has accepted each connection that the kernel had completed; and it closes no connection whose request
may be on its way.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import termios
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import Message, Receive, Scope, Send

FIRST_REQUEST_S = 0.5
"""How long a connection that has carried no request stays open once the listener is closed."""
IDLE_S = 0.1
"""How long one does that has carried some, and that a client may just be using again."""
PAUSE_S = 0.01
TURNS = 5
"""How many turns of the loop it takes, at most, until uvicorn knows of a connection that the loop has accepted."""
CLOSE = (b"connection", b"close")

App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)


class Draining:
    """How a running uvicorn server stops.

    server: it must have been started in the main thread, as its signals are handled there.
    delay_s: between SIGTERM and the end of the listener; SIGINT and a second SIGTERM end it at once.
    on_begin: called once, when the process should no longer be ready.
    """

    def __init__(self, server: uvicorn.Server, *, delay_s: float, on_begin: Callable[[], None]) -> None:
        self._server = server
        self._delay_s = delay_s
        self._on_begin = on_begin
        self._loop = asyncio.get_running_loop()
        self._stop_serving = server.shutdown
        self._told = False
        self._begun = False
        self.closing = False
        """Whether the listener is closed or is about to be."""

    def install(self) -> None:
        """Take SIGTERM and the shutdown over from uvicorn, before it accepts connections.

        However uvicorn comes to stop, by a signal or by `--limit-max-requests`, it calls its method `shutdown`.
        """
        config = self._server.config
        config.loaded_app = self._until_begun(config.loaded_app)  # each connection takes it from there
        self._server.shutdown = self._shut_down  # type: ignore[method-assign]
        signal.signal(signal.SIGTERM, self._terminate)

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        """Handle SIGTERM: begin the delay, or end it.

        uvicorn's own handler is not called: it would raise the signal again at the end, and an orderly stop should
        have exit code 0.
        """
        if self._told or self._delay_s == 0 or not self._server.started:
            self._server.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._delay)
        self._told = True

    def _delay(self) -> None:
        log.info("draining: not ready any more, still serving", extra={"delay_s": self._delay_s})
        self._begin()
        self._loop.call_later(self._delay_s, setattr, self._server, "should_exit", True)  # noqa: FBT003  # its value

    def _begin(self) -> None:
        """Be not ready, and answer with `Connection: close` what is asked from now on and what is being answered."""
        if self._begun:
            return
        self._begun = True
        self._on_begin()
        connections: list[Any] = list(self._server.server_state.connections)
        for connection in connections:
            if _is_busy(connection) and not connection.cycle.more_body:
                connection.shutdown()  # closes nothing: its answer says that it is the last

    def _until_begun(self, app: App) -> App:
        """Return an application that closes each connection with its answer, once the process drains.

        But for an answer that comes before the end of the request's body: to close then would send a reset, which may
        overtake the answer. Such a connection is closed with its next answer.
        """

        def serve(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            return app(scope, receive, _closing(send) if self._begun else send)

        return serve

    async def _shut_down(self, sockets: list[socket.socket] | None = None) -> None:
        """Replace uvicorn's `shutdown`: before it closes connections, accept and answer what would be cut off."""
        started_s = time.monotonic()
        self.closing = True
        self._begin()
        await self._accept_backlog(sockets)
        await self._await_requests()
        config = self._server.config
        if config.timeout_graceful_shutdown is not None:
            left_s = config.timeout_graceful_shutdown - (time.monotonic() - started_s)
            config.timeout_graceful_shutdown = max(0.0, left_s)  # type: ignore[assignment]  # asyncio takes floats
        await self._stop_serving(sockets)

    async def _accept_backlog(self, sockets: list[socket.socket] | None) -> None:
        """Close the listeners, and serve the connections that waited there: the kernel would reset them.

        Copies keep the listeners open while uvicorn's loop lets go of them. Of several workers one leaves what waits
        to the others, which have the same listener.
        """
        config = self._server.config
        alone = config.workers == 1
        copies = list(_copies(self._server.servers)) if alone else []
        for server in self._server.servers:
            server.close()
        for one in sockets or ():
            one.close()
        if config.fd is not None and sockets is None:  # uvicorn listens on a copy of it
            with suppress(OSError):
                os.close(config.fd)
        waiting = [connection for copy in copies for connection in _accept_all(copy, most=2 * config.backlog)]
        if waiting:
            serving = [self._loop.create_task(self._serve(connection)) for connection in waiting]
            await asyncio.wait(serving, timeout=FIRST_REQUEST_S)  # TLS asks for a handshake first

    async def _serve(self, connection: socket.socket) -> None:
        config = self._server.config

        def protocol() -> Any:  # as uvicorn's Server.startup makes it
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self._server.server_state, app_state=self._server.lifespan.state
            )

        with suppress(OSError):  # the client has gone, or speaks no TLS
            await self._loop.connect_accepted_socket(protocol, connection, ssl=config.ssl)

    async def _await_requests(self) -> None:
        """Keep connections open for a moment, on which a request may be on its way."""
        for _ in range(TURNS):
            await asyncio.sleep(0)
        started_s = time.monotonic()
        while not self._server.force_exit:
            waited_s = time.monotonic() - started_s
            if not any(_is_awaited(one, waited_s) for one in self._server.server_state.connections):
                break
            await asyncio.sleep(PAUSE_S)


def _closing(send: Send) -> Send:
    cycle = getattr(send, "__self__", None)

    async def send_last(message: Message) -> None:
        if message["type"] == "http.response.start" and not getattr(cycle, "more_body", False):
            message = {**message, "headers": [*message.get("headers", ()), CLOSE]}
        await send(message)

    return send_last


def _is_busy(connection: Any) -> bool:
    """Return whether a request is being answered there."""
    cycle = getattr(connection, "cycle", None)
    return cycle is not None and not cycle.response_complete


def _is_awaited(connection: Any, waited_s: float) -> bool:
    """Return whether a connection must not be closed yet. uvicorn itself waits for requests that are being answered."""
    if _is_busy(connection) or connection.transport.is_closing():
        return False
    is_new = getattr(connection, "cycle", None) is None
    if waited_s < (FIRST_REQUEST_S if is_new else IDLE_S):
        return True
    return waited_s < FIRST_REQUEST_S and _has_unread(connection)


def _has_unread(connection: Any) -> bool:
    """Return whether there are bytes that the loop has not read: to close then would send a reset."""
    file = connection.transport.get_extra_info("socket").fileno()
    return any(fcntl.ioctl(file, termios.FIONREAD, bytes(4)))


def _copies(servers: Iterable[Any]) -> Iterator[socket.socket]:
    """Copy the listeners of asyncio's or uvloop's servers; those for which no file descriptor is left are missing."""
    for server in servers:
        for listener in server.sockets:
            with suppress(OSError):
                copy = socket.socket(fileno=os.dup(listener.fileno()))
                copy.settimeout(0)
                yield copy


def _accept_all(listener: socket.socket, *, most: int) -> Iterator[socket.socket]:
    """Accept what waits, then close the listener at once: what comes in between is reset."""
    with listener:
        for _ in range(most):
            try:
                connection, _address = listener.accept()
            except ConnectionAbortedError:
                continue
            except OSError:  # nothing waits, or no file descriptor is left
                return
            connection.settimeout(0)
            yield connection
