"""One call of the model at a time: within its time, with an answer of the right form, and counted."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np

from batch_sizes import BatchSizes
from batching import Batch, BatchEstimate
from errors import ModelFailed, ModelUnavailable
from metrics import BATCHES, PADDING, Metrics
from model_client import ModelClient
from records import Work

LATE_S = 0.1
"""How much more than twice the expected time a call may take before it counts as late."""

log = logging.getLogger(__name__)


class ModelCalls:
    """Calls the model.

    model_timeout_s: after this a call to a remote model is cut. A thread cannot be, so where a model in this process
    hangs, `on_hang` ends the process and its leases run out.
    """

    def __init__(
        self,
        model: ModelClient,
        *,
        model_timeout_s: float,
        estimate: BatchEstimate,
        sizes: BatchSizes,
        on_hang: Callable[[], NoReturn],
        metrics: Metrics,
    ) -> None:
        self._model = model
        self._model_timeout_s = model_timeout_s
        self._estimate = estimate
        self._sizes = sizes
        self._on_hang = on_hang
        self._metrics = metrics
        self._work = Work()
        self._began_s = 0.0
        self.expected_end_s = 0.0
        """When the running call will be over at the earliest, by the monotonic clock; 0: not known, or none runs."""
        self.late_s = math.inf
        """From when on it is late."""

    @property
    def work(self) -> Work:
        """What was done so far."""
        running_s = time.monotonic() - self._began_s if self._began_s else 0.0
        return replace(self._work, busy_s=round(self._work.busy_s + running_s, 6))

    async def predict(self, batch: Batch, reason: str) -> Sequence[object]:
        """Return one prediction an image.

        reason: why the batch is as small or large as it is; for the metrics.
        Raises ModelUnavailable where the model does not answer, ModelFailed on a wrong number of predictions, and
        whatever it raises itself.
        """
        images = self._sizes.pad(batch.images)
        least_s = self._estimate.least_s(len(batch.jobs))
        self._began_s = now_s = time.monotonic()
        self.expected_end_s = now_s + least_s if least_s else 0.0
        self.late_s = now_s + 2 * least_s + LATE_S if least_s else math.inf
        try:
            async with asyncio.timeout(self._model_timeout_s) as limit:
                predictions = await self._model.predict(images)
        except TimeoutError as exc:
            if not limit.expired():  # the model's own
                raise ModelFailed("the model failed on this image") from exc
            raise self._hung(len(batch.jobs)) from exc
        finally:
            self._count(len(batch.jobs), len(images) - len(batch.jobs), reason)
        each = _one_each(predictions, len(images))
        return each if images is batch.images else each[: len(batch.jobs)]

    def _hung(self, size: int) -> ModelUnavailable:
        """Return the error of a call that was cut; where it goes on in a thread, end the process instead."""
        if self._model.in_process:
            log.critical(
                "the model hangs: no answer in MICROBATCH_MODEL_TIMEOUT_S; leaving",
                extra={"seconds": self._model_timeout_s, "size": size},
            )
            self._on_hang()
        return ModelUnavailable("the model did not answer in time; try again later")

    def _count(self, size: int, padding: int, reason: str) -> None:
        """Count the call that has just ended."""
        call_s = time.monotonic() - self._began_s
        self._began_s = 0.0
        self._work = Work(self._work.batches + 1, self._work.images + size, self._work.busy_s + call_s)
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
