"""A model that is the user's own code, in a process of its own: there it may hold Python's lock, or crash."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from errors import BatchTooLarge, ModelFailed, ModelUnavailable, StartError, tells_of_no_memory
from inputs import ModelInput
from models.choice import Choice
from models.frames import HEAD, Frame, of_batch

ROOT = Path(__file__).resolve().parent.parent
LEAVE_S = 2.0
"""How long it may take to close what it holds."""

log = logging.getLogger(__name__)


class ProcessEndedError(ModelFailed):
    """The model's process ended within a call."""


class OwnProcess:
    """A model client, see model_client.py: one child that serves one call at a time.

    A child that ends within a call fails that batch, which is then split as ever, and the next call starts another one.
    A call that is cut ends its child: its answer would be taken for that of the next one.
    """

    in_process = False
    takes: ModelInput

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self._child: _Child | None = None

    async def warm_up(self, sizes: Sequence[int] = ()) -> None:
        """Start the process, call the model's own `warm_up`, and predict blank batches, as in a thread.

        Raises StartError, ModelUnavailable.
        """
        child = await self._running()
        declared = child.hello["declared"]
        self.takes = self._choice.over(ModelInput.from_dict(declared) if declared else None)
        try:
            if child.hello["has_warm_up"]:
                _check(await child.ask(Frame.of(call="warm_up")))
            if self.takes.accepts == "tensor":
                for size in sizes or (() if child.hello["has_warm_up"] else (1,)):
                    await self._try_out(size)
        except ModelFailed as exc:
            raise StartError(f"the model failed at its warm-up: {exc.__cause__ or exc}") from exc

    async def _try_out(self, size: int) -> None:
        count = len(await self.predict(np.zeros((size, *self.takes.shape), self.takes.dtype)))
        if count != size:
            raise StartError(f"the model gave {count} predictions for {size} images of {self.takes}")

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch, see ModelClient.

        One image alone is tried again in a new process before it is blamed: somebody may have killed the old one.
        """
        call = of_batch(batch)
        try:
            words = await self._ask(call)
        except ProcessEndedError:
            if len(batch) > 1:
                raise
            words = await self._ask(call)
        rows: list[object] = words["rows"]
        for place, text in words["failed"].items():
            rows[int(place)] = RuntimeError(text)
        return rows

    async def _ask(self, call: Frame) -> dict[str, Any]:
        """Make a call, in a new process where the last one has ended; that one cannot be opened is no image's fault."""
        try:
            child = await self._running()
        except StartError as exc:
            log.warning("the model cannot be opened again", extra={"reason": str(exc)})
            raise ModelUnavailable("the model cannot be started again now; try again") from exc
        return _check(await child.ask(call))

    async def close(self) -> None:
        """End the process; the model's own `close` is called first."""
        if self._child is not None:
            await self._child.leave()
            self._child = None

    async def _running(self) -> _Child:
        if self._child is not None and self._child.has_ended:  # of itself, or killed, between two calls
            await self._child.leave()
        if self._child is None or self._child.is_gone:
            self._child = await _Child.start(self._choice)
        return self._child


class _Child:
    """A started process, and the socket to it."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.hello: dict[str, Any] = {}
        self.is_gone = False

    @classmethod
    async def start(cls, choice: Choice) -> _Child:
        """Start one; come back when it has opened the model.

        Raises StartError where it cannot.
        """
        ours, its = socket.socketpair()
        with its:
            which = orjson.dumps({"model": choice.model, "scaling": choice.scaling}).decode()
            command = [sys.executable, "-m", "models.child", str(its.fileno()), which]
            path = os.pathsep.join([str(ROOT), *sys.path])
            process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[its.fileno()], env={**os.environ, "PYTHONPATH": path}
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer)
        try:
            child.hello = (await child.read()).read()
        except asyncio.IncompleteReadError:
            child.hello = {"start_error": f"the model's process ended at its start (exit code {await process.wait()})"}
        if "start_error" in child.hello:
            await child.leave()
            raise StartError(child.hello["start_error"])
        return child

    @property
    def has_ended(self) -> bool:
        """Whether it has closed its end of the socket."""
        return self._reader.at_eof()

    async def ask(self, call: Frame) -> dict[str, Any]:
        """Make one call.

        Raises ProcessEndedError where the process ends within it.
        """
        try:
            self._writer.writelines(call.pieces())
            await self._writer.drain()
            return (await self.read()).read()
        except (OSError, asyncio.IncompleteReadError):
            await self._end()
            log.warning("the model's process ended within a call", extra={"exit_code": self._process.returncode})
            raise ProcessEndedError("the model failed on this image") from None
        except asyncio.CancelledError:
            self._kill()
            raise

    async def read(self) -> Frame:
        """Read one frame."""
        words, body = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        content = await self._reader.readexactly(words + body)
        return Frame(content[:words], content[words:])

    async def leave(self) -> None:
        """Close the socket, which ends it; kill it where it takes too long."""
        self.is_gone = True
        self._writer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._process.wait()
        await self._end()

    async def _end(self) -> None:
        self._kill()
        await self._process.wait()

    def _kill(self) -> None:
        self.is_gone = True
        self._writer.close()
        with suppress(ProcessLookupError):
            self._process.kill()


def _check(words: dict[str, Any]) -> dict[str, Any]:
    """Return an answer's words.

    Raises what the model raised.
    """
    if "unavailable" in words:
        raise ModelUnavailable(words["unavailable"])
    if "error" in words and tells_of_no_memory(words["error"]):
        raise BatchTooLarge("the model has no memory for this")
    if "error" in words:
        raise ModelFailed("the model failed on this image") from RuntimeError(words["error"])
    return words
