"""A model that costs a set time and says something that each image can be told apart by."""

from __future__ import annotations

import time
from typing import Any

from numpy.typing import NDArray

from config import Settings
from inputs import ModelInput
from models.choice import Choice
from models.in_process import InProcess

TAKES = ModelInput(shape=(32, 32, 3))


class Simulated:
    """Sleep `batch_s` a batch and `image_s` an image; predict the sum of the image's values."""

    def __init__(self, *, batch_s: float, image_s: float) -> None:
        self._batch_s = batch_s
        self._image_s = image_s

    def predict(self, batch: NDArray[Any]) -> list[dict[str, float]]:
        """Return `{"sum": ...}` for each row of a batch of any shape and dtype."""
        cost_s = self._batch_s + self._image_s * len(batch)
        if cost_s:
            time.sleep(cost_s)
        return [{"sum": total} for total in batch.reshape(len(batch), -1).sum(axis=1).tolist()]


def open_model(settings: Settings) -> InProcess:
    """Open it, with what the settings say of its costs and its input."""
    simulated = Simulated(batch_s=settings.simulated_batch_s, image_s=settings.simulated_image_s)
    return InProcess(
        simulated.predict,
        takes=Choice.of(settings).over(TAKES),
        scaling=Choice.of(settings).scaling,
        any_thread=True,
    )
