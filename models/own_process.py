"""A model that is the user's own code, in a process of its own: there it may hold Python's lock, or crash."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from errors import ModelFailed, ModelUnavailable, ServiceError, StartError, told
from inputs import ModelInput
from model_client import ModelProcess
from models.child_process import ChildProcess
from models.choice import Choice
from models.frames import Frame, of_batch, read_predictions

LEAST_RESTART_S, RESTARTS_TAKE = 60.0, 10.0
"""A restart is given up after ten times what the first start took, but not before a minute."""

log = logging.getLogger(__name__)


class OwnProcess:
    """A model client, see model_client.py: one child that serves one call at a time.

    A call that is cut ends its child: its answer would be taken for that of the next one. A child that has ended is
    started again in the background, and warmed up; meanwhile calls are refused, so that no call waits for a start.
    least_restart_s: how long a restart may take at least.
    """

    in_process = False
    takes: ModelInput

    def __init__(self, choice: Choice, *, least_restart_s: float = LEAST_RESTART_S) -> None:
        self._choice = choice
        self._restart_limit_s = least_restart_s
        self._sizes: Sequence[int] = ()
        self._child: ChildProcess | None = None
        self._starting: asyncio.Task[None] | None = None
        self._is_closed = False

    @property
    def process(self) -> ModelProcess:
        """The process: this client of it."""
        return self

    @property
    def is_running(self) -> bool:
        """Whether it takes calls."""
        return self._child is not None and not self._child.is_gone

    async def warm_up(self, sizes: Sequence[int] = ()) -> None:
        """Start the process, call the model's own `warm_up`, and predict blank batches, as in a thread.

        Raises StartError, ModelUnavailable.
        """
        began_s = time.monotonic()
        self._sizes = sizes
        if self._child is None or not self.is_running:
            await self._put_away()
            self._child = await ChildProcess.start(self._choice)
        await self._get_ready(self._child)
        self._restart_limit_s = max(self._restart_limit_s, RESTARTS_TAKE * (time.monotonic() - began_s))

    async def until_running(self) -> None:
        """Wait until it takes calls, see ModelProcess."""
        if self.is_running:
            return
        starting = self._begin_restart()
        try:
            await asyncio.shield(starting)
        except StartError as exc:
            raise ModelUnavailable("the model cannot be started again now; try again") from exc

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch, see ModelClient.

        Raises ModelProcessEnded where the process ends within the call, ModelUnavailable while none runs.
        """
        if self._child is None or not self.is_running:
            self._begin_restart()
            raise ModelUnavailable("the model is being started again; try again")
        try:
            return await _predict(self._child, batch)
        finally:
            if not (self.is_running or self._is_closed):
                self._begin_restart()

    async def close(self) -> None:
        """End the process, and a start of one; the model's own `close` is called first."""
        self._is_closed = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        await self._put_away()

    def _begin_restart(self) -> asyncio.Task[None]:
        """Start a process in the background, unless one is being started; who waits for it may be cancelled."""
        if self._is_closed:
            raise ModelUnavailable("the model was closed")
        if self._starting is None:
            self._starting = asyncio.create_task(self._restart())
            self._starting.add_done_callback(self._restarted)
        return self._starting

    async def _restart(self) -> None:
        """Start a process in place of the one that has ended.

        Raises StartError where it cannot be, or not in time.
        """
        began_s = time.monotonic()
        await self._put_away()
        child = None
        try:
            async with asyncio.timeout(self._restart_limit_s):
                child = await ChildProcess.start(self._choice)
                await self._get_ready(child)
        except BaseException as exc:
            if child is not None:
                await child.end()
            if isinstance(exc, TimeoutError):
                raise StartError(f"the model was not there after {self._restart_limit_s:.0f} s") from exc
            if isinstance(exc, ServiceError):  # as it may say at its warm-up
                raise StartError(exc.message) from exc
            if isinstance(exc, Exception) and not isinstance(exc, StartError):  # no memory or no process is left
                raise StartError(f"the model's process cannot be started: {exc}") from exc
            raise
        self._child = child
        log.info("the model's process was started again", extra={"seconds": round(time.monotonic() - began_s, 3)})

    def _restarted(self, starting: asyncio.Task[None]) -> None:
        self._starting = None
        if not starting.cancelled() and (exc := starting.exception()):
            log.warning("the model cannot be started again", extra={"reason": told(exc)})

    async def _get_ready(self, child: ChildProcess) -> None:
        """Learn what the model takes, and have it make its first calls.

        Raises StartError, ModelUnavailable.
        """
        declared, has_warm_up = child.hello["declared"], child.hello["has_warm_up"]
        self.takes = self._choice.over(ModelInput.from_dict(declared) if declared else None)
        try:
            if has_warm_up:
                await child.ask(Frame.of(call="warm_up"))
            if self.takes.accepts == "tensor":
                for size in self._sizes or (() if has_warm_up else (1,)):
                    await self._try_out(child, size)
        except ModelFailed as exc:
            raise StartError(f"the model failed at its warm-up: {exc.__cause__ or exc}") from exc

    async def _try_out(self, child: ChildProcess, size: int) -> None:
        count = len(await _predict(child, np.zeros((size, *self.takes.shape), self.takes.dtype)))
        if count != size:
            raise StartError(f"the model gave {count} predictions for {size} images of {self.takes}")

    async def _put_away(self) -> None:
        if self._child is not None:
            await self._child.leave()
            self._child = None


async def _predict(child: ChildProcess, batch: NDArray[Any]) -> Sequence[object]:
    return read_predictions(await child.ask(of_batch(batch)))
