"""The door to the model: what the batcher calls, and `open_model` that opens the configured one."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from config import Settings
from errors import ServiceError, StartError
from inputs import Accepts, ModelInput
from models.digits import Digits
from models.scaling import Scaling
from models.simulated import Simulated
from models.tf_serving import TFServing

log = logging.getLogger(__name__)

SIMULATED_INPUT = ModelInput(shape=(32, 32, 3))


class ModelClient(Protocol):
    """A model, wherever it runs.

    takes: what one image must be.
    in_process: whether a call runs in this process, where it cannot be cut.
    """

    @property
    def takes(self) -> ModelInput:
        """Return what one image must be."""

    @property
    def in_process(self) -> bool:
        """Return whether a call runs in this process, where nothing can cut it."""

    async def warm_up(self) -> None:
        """Make the first real call as fast as the later ones.

        Raises ModelUnavailable where it is worth trying again, StartError where it is not.
        """

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch.

        batch: shape (n, *takes.shape) and dtype takes.dtype; for encoded images shape (n,), dtype object, bytes.
        Returns n JSON-able predictions in order; an Exception in a row's place fails that image alone.
        Raises ModelFailed or ModelUnavailable for the batch as a whole; anything else counts as ModelFailed.
        """

    async def close(self) -> None:
        """Give back what it holds."""


QUICK_S = 0.001
"""How long a call is waited for where it is made where the last one was as quick: to come back through the event loop
takes two wake-ups more, about 0.15 ms."""
HAND_OVER_S = 0.0001
"""How long the thread of a slower model is given to begin, before Python code that can wait holds the interpreter."""

Returned = TypeVar("Returned")
Predict = Callable[[NDArray[Any]], Sequence[object]]


class InProcess:
    """Any Python model: its `predict(batch)` runs in one thread of its own."""

    in_process = True

    def __init__(
        self,
        predict: Predict,
        *,
        takes: ModelInput,
        scaling: Scaling,
        warm_up: Callable[[], object] | None = None,
        close: Callable[[], object] | None = None,
    ) -> None:
        self.takes = takes
        self._predict = predict
        self._scaling = scaling
        self._warm_up = warm_up
        self._close = close
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._took_s = 0.0

    async def warm_up(self) -> None:
        """Call the model's own `warm_up`, or predict one blank image."""
        try:
            count = await self._try_out()
        except (ServiceError, StartError):
            raise
        except Exception as exc:
            log.exception("the model failed at its warm-up")
            raise StartError(f"the model failed at its warm-up: {type(exc).__name__}: {exc}") from exc
        if count != 1:
            raise StartError(f"the model gave {count} predictions for one image of {self.takes}")

    async def _try_out(self) -> int:
        """Return how many predictions there are for one image."""
        if self._warm_up is not None:
            await self._run(self._warm_up)
        elif self.takes.accepts == "tensor":
            return len(await self.predict(np.zeros((1, *self.takes.shape), self.takes.dtype)))
        return 1

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Scale and predict, see ModelClient."""
        return await self._run(lambda: self._predict(self._scaling.apply(batch)))

    async def close(self) -> None:
        """Call the model's own `close` and end the thread."""
        if self._close is not None:
            await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], Returned]) -> Returned:
        def contained() -> Returned:
            try:
                return call()
            except BaseException as exc:  # what would end more than this call, as a panic of a Rust library would
                if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
                    raise
                raise RuntimeError(f"the model raised {exc!r}") from exc

        running = self._thread.submit(contained)
        started_s = time.monotonic()
        with suppress(TimeoutError):  # one of the call's own comes again below
            return running.result(QUICK_S if self._took_s < QUICK_S else HAND_OVER_S)
        try:
            return await asyncio.wrap_future(running)
        finally:
            self._took_s = time.monotonic() - started_s


def open_model(settings: Settings) -> ModelClient:
    """Open the configured model; nothing is loaded or connected before `warm_up`, except Python code.

    Raises StartError where it cannot be found or its input is not known.
    """
    kind, _, name = settings.model.partition(":")
    scaling = Scaling(
        scale=settings.input_scale,
        mean=settings.input_mean,
        std=settings.input_std,
        layout=settings.input_layout,
        dtype=settings.model_dtype,
    )
    if kind == "simulated":
        simulated = Simulated(batch_s=settings.simulated_batch_s, image_s=settings.simulated_image_s)
        return InProcess(simulated.predict, takes=_takes(settings, SIMULATED_INPUT), scaling=scaling)
    if kind == "tf-serving":
        return TFServing(
            url=settings.tf_serving_url,
            name=settings.tf_serving_name,
            version=settings.tf_serving_version,
            signature=settings.tf_serving_signature,
            timeout_s=settings.model_timeout_s,
            takes=_takes(settings, None),
            scaling=scaling,
        )
    if kind == "python":
        return _open_python(name, settings, scaling)
    digits = Digits()
    return InProcess(digits.predict, takes=_takes(settings, digits.takes), scaling=scaling)


def _takes(settings: Settings, own: ModelInput | None) -> ModelInput:
    """Return what the model says it takes, with what the settings say instead."""
    accepts = settings.accepts or (own.accepts if own else "tensor")
    shape = settings.input_shape or (own.shape if own else ())
    if accepts == "tensor" and not shape:
        raise StartError(f"MICROBATCH_INPUT_SHAPE=: the model {settings.model} does not say its input, so it is needed")
    return ModelInput(
        shape=shape,
        dtype=settings.input_dtype or (own.dtype if own else "uint8"),
        accepts=accepts,
        fit=settings.fit or (own.fit if own else "stretch"),
    )


def _open_python(path: str, settings: Settings, scaling: Scaling) -> ModelClient:
    """Open `module:name`: a class (made without arguments), an object with `predict`, or a function."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
        model = found() if inspect.isclass(found) else found
    except Exception as exc:
        log.debug("the model cannot be opened", exc_info=exc)
        raise StartError(f"MICROBATCH_MODEL={settings.model}: {exc}") from exc
    predict = getattr(model, "predict", model)
    if not callable(predict):
        raise StartError(f"MICROBATCH_MODEL={settings.model}: must be a function or have a predict method")
    return InProcess(
        predict,
        takes=_takes(settings, _declared(model)),
        scaling=scaling,
        warm_up=getattr(model, "warm_up", None),
        close=getattr(model, "close", None),
    )


def _declared(model: object) -> ModelInput | None:
    """Read what a Python model says of its input in attributes of its own."""
    accepts: Accepts = getattr(model, "accepts", "tensor")
    shape = getattr(model, "input_shape", None)
    if shape is None and accepts == "tensor":
        return None
    try:
        return ModelInput(
            shape=tuple(shape or ()),
            dtype=str(getattr(model, "input_dtype", "uint8")),
            accepts=accepts,
            fit=getattr(model, "fit", "stretch"),
        )
    except (TypeError, ValueError) as exc:
        raise StartError(f"the model's input: {exc}") from exc
