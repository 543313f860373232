"""One call of the model at a time: within its time, with an answer of the right form, and counted."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_sizes import BatchSizes
from batching import Batch, BatchEstimate
from errors import ModelFailed, ModelUnavailable
from metrics import BATCHES, PADDING, Metrics
from model_client import ModelClient
from records import Work

LATE_S = 0.1
"""How much more than twice the expected time a call may take before it counts as late."""


class ModelCalls:
    """Calls the model.

    model_timeout_s: after this a call to a remote model is cut; of one in this process, which cannot be, `hangs` tells.
    """

    def __init__(
        self,
        model: ModelClient,
        *,
        model_timeout_s: float,
        estimate: BatchEstimate,
        sizes: BatchSizes,
        metrics: Metrics,
    ) -> None:
        self._model = model
        self._model_timeout_s = model_timeout_s
        self._estimate = estimate
        self._sizes = sizes
        self._metrics = metrics
        self._state = (0.0, Work())  # when the running call began, if any, and what was done before: read by threads
        self.expected_end_s = 0.0
        """When the running call will be over at the earliest, by the monotonic clock; 0: not known, or none runs."""
        self.late_s = math.inf
        """From when on it is late."""

    @property
    def work(self) -> Work:
        """What was done so far."""
        began_s, work = self._state
        running_s = time.monotonic() - began_s if began_s else 0.0
        return replace(work, busy_s=round(work.busy_s + running_s, 6))

    @property
    def hangs(self) -> bool:
        """Whether a call in this process takes longer than one may."""
        began_s, _ = self._state
        return self._model.in_process and 0 < began_s < time.monotonic() - self._model_timeout_s

    async def predict(self, batch: Batch, reason: str) -> Sequence[object]:
        """Return one prediction an image.

        reason: why the batch is as small or large as it is; for the metrics.
        Raises ModelUnavailable where the model does not answer, ModelFailed on a wrong number of predictions, and
        whatever it raises itself.
        """
        size = len(batch.jobs)
        images = batch.take(self._sizes.padded(size))
        self._begin(size)
        try:
            predictions = await (self._model.predict(images) if self._model.in_process else self._in_time(images))
        finally:
            self._count(size, len(images) - size, reason)
        each = _one_each(predictions, len(images))
        return each if len(images) == size else each[:size]

    async def _in_time(self, images: NDArray[Any]) -> Sequence[object]:
        """Call a model that runs elsewhere, and cut the call where it takes too long."""
        try:
            async with asyncio.timeout(self._model_timeout_s) as limit:
                return await self._model.predict(images)
        except TimeoutError as exc:
            if not limit.expired():  # the model's own
                raise ModelFailed("the model failed on this image") from exc
            raise ModelUnavailable("the model did not answer in time; try again later") from exc

    def _begin(self, size: int) -> None:
        """Note that a call begins, and when it is to be over."""
        now_s = time.monotonic()
        self._state = (now_s, self._state[1])
        least_s = self._estimate.least_s(size)
        self.expected_end_s = now_s + least_s if least_s else 0.0
        self.late_s = now_s + 2 * least_s + LATE_S if least_s else math.inf

    def _count(self, size: int, padding: int, reason: str) -> None:
        """Count the call that has just ended."""
        began_s, work = self._state
        call_s = time.monotonic() - began_s
        self._state = (0.0, Work(work.batches + 1, work.images + size, work.busy_s + call_s))
        self._metrics.model_s.see(call_s)
        self._metrics.batch_size.see(size)
        self._metrics.count(BATCHES, reason)
        if padding:
            self._metrics.count(PADDING, by=padding)


def _one_each(predictions: object, count: int) -> Sequence[object]:
    """Return the model's answer as a sequence of so many predictions.

    Raises ModelFailed where it is none.
    """
    if isinstance(predictions, np.ndarray):
        predictions = np.ascontiguousarray(predictions)  # or orjson would refuse its rows
    elif not isinstance(predictions, list | tuple):
        raise ModelFailed("the model must give a list of predictions, one an image")
    if len(predictions) != count:
        raise ModelFailed(f"the model gave {len(predictions)} predictions for {count} images")
    return predictions  # type: ignore[return-value]  # an array is one in all that is asked of it


def copied(predictions: Sequence[object]) -> Sequence[object]:
    """Return predictions that the model's next call does not change: some write them to the same arrays each time."""
    if isinstance(predictions, np.ndarray):
        return predictions.copy()
    if not isinstance(predictions[0], np.ndarray | dict):  # as all of them, then
        return predictions
    return [_copied(row) for row in predictions]


def _copied(row: object) -> object:
    if type(row) is dict:
        return {name: _copied(value) for name, value in row.items()}
    return row.copy() if type(row) is np.ndarray else row
