"""Any Python model: its `predict(batch)` runs in one thread of its own, or on the event loop where it is quick."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from errors import ServiceError, StartError, is_error, tame, told
from inputs import ModelInput
from models.scaling import Scaling

log = logging.getLogger(__name__)

QUICK_S = 0.001
"""Calls that take less than this, as the last one of about the same size did, are waited for where they are made: to
come back through the event loop takes two wake-ups more, about 0.15 ms. A model that may be called from any thread is
called there itself then: to hand a call over to another thread and back takes 0.1 to 0.2 ms."""
FAR_TOO_LONG_S = 0.1
"""After one call on the event loop that takes this, all go to the model's own thread."""
MOST_KINDS = 256
"""Of how many kinds of batches it is remembered what the last one took."""
HAND_OVER_S = 0.0001
"""How long the thread of a slower model is given to begin, before Python code that can wait holds the interpreter."""

Returned = TypeVar("Returned")
Predict = Callable[[NDArray[Any]], Sequence[object]]


class InProcess:
    """A model client, see model_client.py, of what is called in this process.

    any_thread: `predict` may be called now from the model's own thread, now from another; never from two at once.
    """

    in_process = True
    process = None

    def __init__(
        self,
        predict: Predict,
        *,
        takes: ModelInput,
        scaling: Scaling,
        warm_up: Callable[[], object] | None = None,
        close: Callable[[], object] | None = None,
        any_thread: bool = False,
    ) -> None:
        self.takes = takes
        self._predict = predict
        self._scaling = scaling
        self._warm_up = warm_up
        self._close = close
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._any_thread = any_thread
        self._took_s: dict[object, float] = {}

    async def warm_up(self, sizes: Sequence[int] = ()) -> None:
        """Call the model's own `warm_up`, and predict blank batches: of each size, else of one where it has none."""
        try:
            if self._warm_up is not None:
                await self._run(self._warm_up)
            if self.takes.accepts == "tensor":
                for size in sizes or ((1,) if self._warm_up is None else ()):
                    await self._try_out(size)
        except (ServiceError, StartError):
            raise
        except Exception as exc:
            log.error("the model failed at its warm-up", exc_info=tame(exc))  # noqa: TRY400  # it may not be told as it is
            raise StartError(f"the model failed at its warm-up: {told(exc)}") from exc

    async def _try_out(self, size: int) -> None:
        count = len(await self.predict(np.zeros((size, *self.takes.shape), self.takes.dtype)))
        if count != size:
            images = "one image" if size == 1 else f"{size} images"
            raise StartError(f"the model gave {count} predictions for {images} of {self.takes}")

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Scale and predict, see ModelClient."""

        def call() -> Sequence[object]:
            return self._predict(self._scaling.apply(batch))

        alike = batch.shape[1:], batch.dtype, len(batch).bit_length()
        is_quick = self._took_s.pop(alike, math.inf) < QUICK_S  # taken out: a call that fails says nothing of the next
        started_s = time.monotonic()
        predictions = self._here(call) if is_quick and self._any_thread else await self._run(call, is_quick=is_quick)
        if len(self._took_s) == MOST_KINDS:
            self._took_s.clear()
        self._took_s[alike] = time.monotonic() - started_s
        return predictions

    async def close(self) -> None:
        """Call the model's own `close` and end the thread."""
        if self._close is not None:
            await self._run(self._close)
        self._thread.shutdown(wait=False)

    def _here(self, call: Callable[[], Returned]) -> Returned:
        """Make a call on the event loop, unless one there has ever been slow: meanwhile no signal is heard."""
        started_s = time.monotonic()
        try:
            return _contained(call)
        finally:
            self._any_thread = time.monotonic() - started_s < FAR_TOO_LONG_S

    async def _run(self, call: Callable[[], Returned], *, is_quick: bool = False) -> Returned:
        running = self._thread.submit(_contained, call)
        with suppress(TimeoutError):  # one of the call's own comes again below
            return running.result(QUICK_S if is_quick else HAND_OVER_S)
        return await asyncio.wrap_future(running)


def _contained(call: Callable[[], Returned]) -> Returned:
    try:
        return call()
    except BaseException as exc:  # what would end more than this call, as a panic of a Rust library would
        if is_error(exc) and not issubclass(type(exc), StopIteration):
            raise
        raise RuntimeError(f"the model raised {told(exc)}") from exc
