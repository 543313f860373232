"""The process of a model that is the user's own code, as its batcher sees it: started, asked, and ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from errors import ModelFailed, ModelProcessEnded, ServiceError, StartError
from models.choice import Choice
from models.frames import HEAD, Frame, error_in

ROOT = Path(__file__).resolve().parent.parent
LEAVE_S = 2.0
"""How long it may take to close what it holds."""

log = logging.getLogger(__name__)


class ChildProcess:
    """A started process, and the socket to it."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.hello: dict[str, Any] = {}
        self._is_left = False

    @classmethod
    async def start(cls, choice: Choice) -> ChildProcess:
        """Start one; come back when it has opened the model. Where that is cut, the process ends.

        Raises StartError where it cannot.
        """
        ours, its = socket.socketpair()
        try:
            with its:
                process = await _run_child(choice, its)
        except BaseException:
            ours.close()
            raise
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            await _end(process)
            raise
        child = cls(process, reader, writer)
        try:
            child.hello = await child._read_hello()
        except BaseException:
            await child.end()
            raise
        if "start_error" in child.hello:
            await child.leave()
            raise StartError(child.hello["start_error"])
        return child

    async def _read_hello(self) -> dict[str, Any]:
        try:
            return (await self.read()).read()
        except asyncio.IncompleteReadError:
            code = await self._process.wait()
            return {"start_error": f"the model's process ended at its start (exit code {code})"}

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._is_left or self._reader.at_eof()

    async def ask(self, call: Frame) -> dict[str, Any]:
        """Make one call.

        Raises ModelProcessEnded where the process ends within it, else what the model raised.
        """
        try:
            self._writer.writelines(call.pieces())
            await self._writer.drain()
            words = (await self.read()).read()
        except (OSError, asyncio.IncompleteReadError):
            await self.end()
            log.warning("the model's process ended within a call", extra={"exit_code": self._process.returncode})
            raise ModelProcessEnded("the model failed on this image") from None
        except asyncio.CancelledError:
            self._kill()
            raise
        if error := error_in(words):
            raise error if isinstance(error, ServiceError) else ModelFailed("the model failed on this image") from error
        return words

    async def read(self) -> Frame:
        """Read one frame."""
        words, body = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        content = await self._reader.readexactly(words + body)
        return Frame(content[:words], content[words:])

    async def leave(self) -> None:
        """Close the socket, which ends it; kill it where it takes too long."""
        self._is_left = True
        self._writer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._process.wait()
        await self.end()

    async def end(self) -> None:
        """End it, and come back when it has ended."""
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        self._is_left = True
        self._writer.close()
        _kill(self._process)


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


async def _end(process: Process) -> None:
    _kill(process)
    await process.wait()


async def _run_child(choice: Choice, its: socket.socket) -> Process:
    which = {"model": choice.model, "scaling": choice.scaling, "parent": os.getpid()}
    command = [sys.executable, "-m", "models.child", str(its.fileno()), orjson.dumps(which).decode()]
    path = os.pathsep.join([str(ROOT), *sys.path])
    return await asyncio.create_subprocess_exec(
        *command, pass_fds=[its.fileno()], env={**os.environ, "PYTHONPATH": path}
    )
