"""Commands to Redis and their replies: connections, scripts, time limits; no error of the client library leaves here.

redis-py opens a connection: address, TLS, password, database. From then on its transport is spoken to by what follows,
since the client's streams, locks and retries cost several times what the commands do.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from hashlib import sha1
from itertools import groupby
from pathlib import Path
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from alarms import EARLY_S
from errors import ConnectionLost, NotConnected, RedisRefuses, RedisUnreachable, UnfitRedis

SCRIPTS = ("submit", "claim", "settle", "beat", "poll", "drop", "audit", "count", "look", "unbury")
MAX_CALLS_AT_ONCE = 64
"""As many connections there are at most; whoever comes then waits for one."""
PASSING = ("LOADING", "BUSY ", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "MISCONF")
"""How replies begin that say to come back later."""
NO_ENTRY = ("NOAUTH", "WRONGPASS", "NOPERM")
"""How replies begin that say that this service may not do what it asks for."""
AWAY = "Redis cannot be reached; try again shortly"
NOTHING = object()

NONSENSE = (hiredis.HiredisError, ValueError, TypeError, AttributeError, LookupError)
"""What reading a reply raises that cannot be the command's own."""

_IN_SCRIPT = re.compile(r"(?:ERR Error running script .*?: |@user_script: \d+: )-(?=[A-Z]+ )")

Command = tuple[Any, ...]
Request = Sequence[bytes | memoryview]
"""Commands as they are sent, in pieces."""


class Pieces(tuple[bytes | memoryview, ...]):
    """One long argument of a command, in pieces that are sent without a copy; packing a short one costs less."""

    __slots__ = ()


class Wire:
    """A Redis server; safe to use from many tasks of one event loop.

    timeout_s: how long Redis may be silent while a reply is awaited. on_reply: is told what each script took that was
    sent by itself.
    """

    def __init__(self, url: str, *, timeout_s: float, on_reply: Callable[[str, float], None] | None = None) -> None:
        self._timeout_s = timeout_s
        self._on_reply = on_reply
        self._scripts = _read_scripts()
        self._turns = asyncio.Semaphore(MAX_CALLS_AT_ONCE)
        self._lines: set[_Line] = set()
        self._free: list[_Line] = []
        self._pool = ConnectionPool.from_url(url, protocol=2, socket_timeout=None, retry=Retry(NoBackoff(), 0))

    def close(self) -> None:
        """Close all connections, those in use too; the next command opens one."""
        for line in list(self._lines):
            line.close(ConnectionError("closed"))

    async def call(self, *command: Any) -> Any:
        """Send one command; return its reply."""
        (reply,) = await self.exchange([command])
        return reply

    async def exchange(self, commands: Sequence[Command], *, longer_s: float = 0.0) -> list[Any]:
        """Send commands in one write; return their replies.

        longer_s: how much longer than usual Redis may be silent.
        """
        replies = await self._send(commands, longer_s)
        for reply in replies:
            _require_success(reply)
        return replies

    async def run(
        self, script: str, keys: Sequence[str], arguments: Sequence[Any], *, after: Command = (), longer_s: float = 0.0
    ) -> Any:
        """Run a script; return its reply.

        after: a command sent before it in the same write, whose reply is not looked at.
        """
        began_s = time.monotonic()
        text, digest = self._scripts[script]
        rest = (len(keys), *keys, *arguments)
        evaluate = ("EVALSHA", digest, *rest)
        reply = (await self._send([after, evaluate] if after else [evaluate], longer_s))[-1]
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):  # a new Redis; EVAL loads it
            (reply,) = await self._send([("EVAL", text, *rest)], longer_s)
        _require_success(reply)
        if self._on_reply and not after:
            self._on_reply(script, time.monotonic() - began_s)
        return reply

    async def run_in_transaction(
        self, command: Command, script: str, keys: Sequence[str], arguments: Sequence[Any], *, longer_s: float = 0.0
    ) -> Any:
        """Run a command and then a script in one transaction; return the script's reply.

        None: Redis has no memory for the command, and nothing was done; or it does not know the script, and the command
        alone was carried out.
        """
        began_s = time.monotonic()
        evaluate = ("EVALSHA", self._scripts[script][1], len(keys), *keys, *arguments)
        replies = await self._send([("MULTI",), command, evaluate, ("EXEC",)], longer_s)
        done = replies[-1] if isinstance(replies[-1], list) else []
        for reply in (*replies, *done):
            if isinstance(reply, hiredis.ReplyError) and _reason(reply).startswith(("OOM", "NOSCRIPT")):
                return None
            _require_success(reply)
        if self._on_reply:
            self._on_reply(script, time.monotonic() - began_s)
        _first, last = done
        return last

    async def _send(self, commands: Sequence[Command], longer_s: float) -> list[Any]:
        """Send commands and return their replies; once more over a new connection where the first one is lost.

        All that is sent here is safe to repeat. A timeout is not tried again: it is Redis that is slow then.
        """
        request = packed(commands)
        limit_s = self._timeout_s + longer_s
        try:
            await self._take_turn(limit_s)
            try:
                line = self._free.pop() if self._free else await self._open(limit_s)
                try:
                    return await self._exchange(line, request, len(commands), limit_s)
                except ConnectionError:
                    return await self._send_again(request, len(commands), limit_s)
            finally:
                self._turns.release()
        except OSError as exc:  # TimeoutError is one
            raise RedisUnreachable(AWAY) from exc

    async def _send_again(self, request: Request, count: int, limit_s: float) -> list[Any]:
        try:
            return await self._exchange(await self._open(limit_s), request, count, limit_s)
        except NotConnected as exc:  # but the first time it was sent
            raise RedisUnreachable(AWAY) from exc.__cause__
        except ConnectionError as exc:
            raise ConnectionLost(AWAY) from exc

    async def _exchange(self, line: _Line, request: Request, count: int, limit_s: float) -> list[Any]:
        try:
            return await line.exchange(request, count, limit_s)
        finally:
            if line in self._lines:
                self._free.append(line)

    async def _take_turn(self, limit_s: float) -> None:
        if self._turns.locked():
            try:
                async with asyncio.timeout(limit_s):
                    await self._turns.acquire()
            except TimeoutError as exc:
                raise NotConnected(AWAY) from exc
        else:  # at once, and a time limit is not free
            await self._turns.acquire()

    async def _open(self, limit_s: float) -> _Line:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(limit_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        except (AuthenticationError, ResponseError) as exc:  # what Redis says to HELLO, AUTH or SELECT
            raise UnfitRedis("Redis does not let this service in: look at REDIS_URL") from exc
        except (RedisError, OSError) as exc:
            raise NotConnected(AWAY) from exc
        line = _Line(connection, self._lost)
        self._lines.add(line)
        return line

    def _lost(self, line: _Line) -> None:
        self._lines.discard(line)
        if line in self._free:
            self._free.remove(line)


class _Line(asyncio.Protocol):
    """One connection, used by one task at a time.

    lost: is told once it is closed, by whomever.
    """

    def __init__(self, connection: AbstractConnection, lost: Callable[[_Line], None]) -> None:
        self._connection = connection  # kept: it closes its transport when it is forgotten
        self._transport: asyncio.Transport = connection._writer.transport  # type: ignore[union-attr,assignment]  # noqa: SLF001  # it is connected, and two-way
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=NOTHING)
        self._replies: list[Any] = []
        self._wanted = 0
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[list[Any]] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._heard_s = self._limit_s = 0.0
        self._transport.set_protocol(self)

    async def exchange(self, request: Request, count: int, limit_s: float) -> list[Any]:
        """Send commands; return so many replies.

        request: the bytes to send, in pieces. Under uvloop the transport refers to them until they are sent.
        Raises OSError where they do not come, ProtocolError where they are none.
        """
        self._wanted, self._over, self._heard_s = count, self._loop.create_future(), self._loop.time()
        self._limit_s = limit_s
        self._look_at(self._heard_s + limit_s)
        if len(request) == 1:
            self._transport.write(request[0])
        else:
            self._transport.writelines(request)
        try:
            return await self._over
        except asyncio.CancelledError:  # what comes yet, the next one would take for its own
            self.close(ConnectionError("cancelled"))
            raise

    def _look_at(self, when_s: float) -> None:
        """Look then, or before; a timer for each exchange would cost each a turn of the event loop."""
        if self._timer is not None:
            if self._timer_s <= when_s:
                return
            self._timer.cancel()
        self._timer_s = when_s
        self._timer = self._loop.call_at(when_s, self._look)

    def _look(self) -> None:
        """Close what has been silent for too long; come back to what has not."""
        self._timer = None
        if not self._wanted:
            return
        if self._loop.time() < self._heard_s + self._limit_s - EARLY_S:
            self._look_at(self._heard_s + self._limit_s)
        else:
            self.close(TimeoutError("no reply in time"))

    def data_received(self, data: bytes) -> None:
        """Take in replies; what nobody asked for ends the connection."""
        self._heard_s = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not NOTHING:
                self._replies.append(reply)
        except hiredis.ProtocolError as exc:
            self.close(exc)
            return
        if len(self._replies) < self._wanted:
            return
        if len(self._replies) > self._wanted or self._reader.has_data() or self._over.done():
            self.close(ConnectionError("a reply that nobody asked for"))
            return
        self._over.set_result(self._replies)
        self._wanted, self._replies = 0, []

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail whoever waits."""
        self.close(exc or ConnectionError("closed by the server"))

    def close(self, reason: Exception) -> None:
        """Close at once; whoever waits for replies gets the reason."""
        self._lost(self)
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001  # or it complains that nobody did
        if self._wanted and not self._over.done():
            self._over.set_exception(reason)


def packed(commands: Sequence[Command]) -> Request:
    """Return commands as they are sent; the pieces of long arguments are not copied."""
    if not any(Pieces in map(type, command) for command in commands):
        return [b"".join(map(hiredis.pack_command, commands))]
    return [piece for command in commands for piece in _pieces_of(command)]


def _pieces_of(command: Command) -> list[bytes | memoryview]:
    """Frame a command by RESP: `*<arguments>`, then each as `$<length>` and its bytes, all ended by CR LF."""
    found: list[bytes | memoryview] = []
    between = b"*%d\r\n" % len(command)
    for are_pieces, arguments in groupby(command, lambda argument: type(argument) is Pieces):
        if not are_pieces:
            between += hiredis.pack_command(tuple(arguments)).partition(b"\r\n")[2]  # without its own count
            continue
        for pieces in arguments:
            found += (between + b"$%d\r\n" % sum(map(len, pieces)), *pieces)
            between = b"\r\n"
    return [*found, between]


def _require_success(reply: object) -> None:
    if not isinstance(reply, hiredis.ReplyError):
        return
    reason = _reason(reply)
    if reason.startswith(PASSING):
        raise RedisRefuses("Redis is not ready; try again shortly") from reply
    if reason.startswith("OOM"):
        raise RedisRefuses("Redis is out of memory; try again later") from reply
    if reason.startswith("READONLY"):
        raise UnfitRedis("this Redis is a replica: point REDIS_URL at its primary") from reply
    if reason.startswith(NO_ENTRY):
        raise UnfitRedis("Redis does not let this service in: look at REDIS_URL") from reply
    raise UnfitRedis("Redis refuses the queue's commands; its log and this service's say why") from reply


def _reason(error: hiredis.ReplyError) -> str:
    """Return what Redis says, or says that a transaction or a script failed of."""
    text = str(error).removeprefix("EXECABORT Transaction discarded because of: ")
    in_script = _IN_SCRIPT.match(text)  # Redis 6.2 puts the error of a command in a script behind where it was
    return text[in_script.end() :] if in_script else text


def _read_scripts() -> dict[str, tuple[str, str]]:
    """Return each script's text, the shared block first, and its digest by which EVALSHA calls it."""
    folder = Path(__file__).parent / "lua"
    shared = (folder / "shared.lua").read_text()
    texts = {name: shared + (folder / f"{name}.lua").read_text() for name in SCRIPTS}
    return {name: (text, sha1(text.encode(), usedforsecurity=False).hexdigest()) for name, text in texts.items()}
