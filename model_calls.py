"""One call of the model at a time: within its time, with an answer of the right form, and counted."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batch_sizes import BatchSizes
from batching import Batch, BatchEstimate, Image
from errors import CallCut, ModelFailed, ModelUnavailable, told
from metrics import BATCHES, PADDING, Metrics
from model_client import NO_LIST, ModelClient
from records import Work

REMEMBERED_CALLS = 64
LEAST_LIMIT_S, LONGER = 1.0, 4.0
"""Where one of its images may be to blame a call is cut after four times what nearly all (95 %) of the last ones took,
and not before a second."""
LATE_S = 0.1
"""How much more than twice the expected time a call may take before it counts as late."""

log = logging.getLogger(__name__)


class ModelCalls:
    """Calls the model.

    model_timeout_s: after this a call to a model elsewhere is cut; of one here, which cannot be, `hangs` tells.
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
        self.took_s: deque[float] = deque(maxlen=REMEMBERED_CALLS)
        """What the last calls took that succeeded."""
        self.witness: Image | None = None
        """An image that was answered."""
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

    @property
    def suspects_limit_s(self) -> float:
        """How long a call may take where one of its images may be to blame for a failure."""
        if not self.took_s:
            return self._model_timeout_s
        usual_s = sorted(self.took_s)[math.ceil(0.95 * len(self.took_s)) - 1]
        return min(max(LEAST_LIMIT_S, LONGER * usual_s), self._model_timeout_s)

    async def predict(self, batch: Batch, reason: str, *, is_suspect: bool = False) -> Sequence[object]:
        """Return one prediction an image.

        reason: why the batch is as small or large as it is; for the metrics. is_suspect: see `suspects_limit_s`.
        Raises CallCut where the model does not answer in time, ModelFailed on a wrong number of predictions, and
        whatever it raises itself.
        """
        size = len(batch.jobs)
        images = batch.take(self._sizes.padded(size))
        began_s = self._begin(size)
        try:
            if self._model.in_process:
                predictions = await self._model.predict(images)
            else:
                limit_s = self.suspects_limit_s if is_suspect else self._model_timeout_s
                predictions = await self._in_time(images, limit_s)
        finally:
            call_s = self._count(size, len(images) - size, reason, began_s)
        each = _one_each(predictions, len(images))
        self.took_s.append(call_s)
        return each if len(images) == size else each[:size]

    async def try_witness(self) -> None:
        """Call the model with an image that it has answered before, or a blank one, as its warm-up did.

        Raises ModelUnavailable where it does not answer, or no such image is known; an error is an answer.
        """
        takes = self._model.takes
        image = np.zeros(takes.shape, takes.dtype) if self.witness is None else self.witness
        if self.witness is None and takes.accepts == "encoded":
            raise ModelUnavailable("the model did not answer in time; try again later")
        images = Batch((), (image,)).take(self._sizes.padded(1))
        limit_s = self.suspects_limit_s if self.took_s else max(LEAST_LIMIT_S, self._model_timeout_s / LONGER)
        try:
            await self._in_time(images, min(limit_s, self._model_timeout_s))
        except ModelUnavailable:
            raise
        except Exception as exc:  # noqa: BLE001  # whatever a model raises
            log.debug("an image that was answered before fails", extra={"reason": told(exc)})

    async def _in_time(self, images: NDArray[Any], limit_s: float) -> Sequence[object]:
        """Call a model that runs elsewhere, and cut the call where it takes too long."""
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await self._model.predict(images)
        except TimeoutError as exc:
            if not limit.expired():  # the model's own
                raise ModelFailed("the model failed on this image") from exc
            raise CallCut("the model did not answer in time; try again later") from exc

    def _begin(self, size: int) -> float:
        """Note that a call begins, and when it is to be over; return when it began."""
        now_s = time.monotonic()
        self._state = (now_s, self._state[1])
        least_s = self._estimate.least_s(size)
        self.expected_end_s = now_s + least_s if least_s else 0.0
        self.late_s = now_s + 2 * least_s + LATE_S if least_s else math.inf
        return now_s

    def _count(self, size: int, padding: int, reason: str, began_s: float) -> float:
        """Count the call that has just ended; return what it took."""
        work = self._state[1]
        call_s = time.monotonic() - began_s
        self._state = (0.0, Work(work.batches + 1, work.images + size, work.busy_s + call_s))
        self._metrics.model_s.see(call_s)
        self._metrics.batch_size.see(size)
        self._metrics.count(BATCHES, reason)
        if padding:
            self._metrics.count(PADDING, by=padding)
        return call_s


def _one_each(predictions: object, count: int) -> Sequence[object]:
    """Return the model's answer as a sequence of so many predictions.

    Raises ModelFailed where it is none.
    """
    if isinstance(predictions, np.ndarray):
        rows: Any = np.ascontiguousarray(predictions)  # or orjson would refuse its rows
    elif isinstance(predictions, list | tuple):
        rows = list(predictions)  # of a class of the model's own it might be of another length next time
    else:
        raise ModelFailed(NO_LIST)
    if len(rows) != count:
        raise ModelFailed(f"the model gave {len(rows)} predictions for {count} images")
    return rows  # type: ignore[no-any-return]  # an array is a sequence in all that is asked of it


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
