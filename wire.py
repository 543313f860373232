"""Commands to Redis and their replies: connections, scripts, time limits; no error of the client library leaves here.

It takes redis-py's connections as they are, and leaves out its client's retries and locks, which cost more than the
commands do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from errors import RedisUnreachable, UnfitRedis

SCRIPTS = ("submit", "claim", "settle", "beat", "poll", "drop", "audit")
MAX_CALLS_AT_ONCE = 64
"""The client's pool holds 100 connections and refuses more."""

Command = tuple[Any, ...]


class Wire:
    """A Redis server; safe to use from many tasks of one event loop.

    timeout_s: how long one exchange may take. connect: makes the client, as Redis.from_url does.
    """

    def __init__(self, url: str, *, timeout_s: float, connect: Callable[..., Redis] = Redis.from_url) -> None:
        self._timeout_s = timeout_s
        self._scripts = _read_scripts()
        self._turns = asyncio.Semaphore(MAX_CALLS_AT_ONCE)
        self._free: list[AbstractConnection] = []
        # No time limits in the client: before Python 3.12 they swallow a cancellation now and then. No retries either:
        # whoever calls here knows better what a lost reply means.
        self._redis = connect(url, protocol=2, socket_timeout=None, retry=Retry(NoBackoff(), 0))

    async def close(self) -> None:
        """Close all connections for good."""
        await self._redis.aclose()

    async def disconnect(self) -> None:
        """Close all connections, those in use too; the next command opens one."""
        await self._redis.connection_pool.disconnect()

    async def call(self, *command: Any) -> Any:
        """Send one command; return its reply."""
        (reply,) = await self.exchange([command])
        return reply

    async def exchange(self, commands: Sequence[Command], *, longer_s: float = 0.0) -> list[Any]:
        """Send commands in one write; return their replies.

        longer_s: how much longer than others it may take.
        """
        replies = await self._send(commands, longer_s)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise _translated(reply) from reply
        return replies

    async def run(
        self, script: str, keys: Sequence[str], arguments: Sequence[Any], *, after: Command = (), longer_s: float = 0.0
    ) -> Any:
        """Run a script; return its reply.

        after: a command sent before it in the same write, whose reply is not looked at.
        """
        text, digest = self._scripts[script]
        rest = (len(keys), *keys, *arguments)
        evaluate = ("EVALSHA", digest, *rest)
        reply = (await self._send([after, evaluate] if after else [evaluate], longer_s))[-1]
        if isinstance(reply, NoScriptError):  # a new or restarted Redis; EVAL also loads it
            (reply,) = await self._send([("EVAL", text, *rest)], longer_s)
        if isinstance(reply, ResponseError):
            raise _translated(reply) from reply
        return reply

    async def info(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        said: dict[str, Any] = await self._in_time(self._redis.info())
        return said

    async def _send(self, commands: Sequence[Command], longer_s: float) -> list[Any]:
        replies: list[Any] = await self._in_time(self._converse(commands), longer_s)
        return replies

    async def _in_time(self, talk: Awaitable[Any], longer_s: float = 0.0) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s + longer_s):
                return await talk
        except (RedisConnectionError, RedisTimeoutError, ResponseError, OSError) as exc:  # TimeoutError is an OSError
            raise _translated(exc) from exc

    async def _converse(self, commands: Sequence[Command]) -> list[Any]:
        """Send, and read as many replies."""
        pool = self._redis.connection_pool
        async with self._turns:
            connection = self._free.pop() if self._free else await self._new_connection()
            try:
                await pool.ensure_connection(connection)  # anew where it is closed, or holds what nobody asked for
                await connection.send_packed_command(connection.pack_commands(commands))
                return [await _reply(connection) for _ in commands]
            except BaseException:  # replies may be left that the next one would take for its own
                await connection.disconnect(nowait=True)
                raise
            finally:
                self._free.append(connection)

    async def _new_connection(self) -> AbstractConnection:
        """Open a connection that redis-py's pool knows, and closes, but never gets back."""
        open_one: Callable[[], Awaitable[AbstractConnection]] = self._redis.connection_pool.get_connection
        return await open_one()


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as exc:
        return exc


def _translated(exc: Exception) -> RedisUnreachable | UnfitRedis:
    if isinstance(exc, ReadOnlyError):
        return UnfitRedis("this Redis is a replica: point REDIS_URL at its primary")
    if isinstance(exc, ResponseError):
        return UnfitRedis("Redis refuses the queue's commands; its log and this service's say why")
    return RedisUnreachable("Redis cannot be reached; try again shortly")


def _read_scripts() -> dict[str, tuple[str, str]]:
    """Return each script's text, the shared block first, and its digest by which EVALSHA calls it."""
    folder = Path(__file__).parent / "lua"
    shared = (folder / "shared.lua").read_text()
    texts = {name: shared + (folder / f"{name}.lua").read_text() for name in SCRIPTS}
    return {name: (text, sha1(text.encode(), usedforsecurity=False).hexdigest()) for name, text in texts.items()}


NONSENSE = (RedisError, ValueError, TypeError, AttributeError, LookupError)
"""What reading a reply raises that cannot be the command's own."""
