"""The shipped model, slowed to what a larger one takes, so that batches form while people watch."""

from __future__ import annotations

import time
from typing import Any

from numpy.typing import NDArray

from models.digits import Digits

BATCH_S = 0.04
IMAGE_S = 0.001


class SlowDigits(Digits):
    """Digits, at 40 ms a batch and 1 ms an image."""

    input_shape = (8, 8)
    input_dtype = "uint8"
    fit = "ink"

    def predict(self, batch: NDArray[Any]) -> list[dict[str, object]]:
        """Return what the model says, later."""
        time.sleep(BATCH_S + IMAGE_S * len(batch))
        return super().predict(batch)
