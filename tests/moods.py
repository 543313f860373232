"""Models that fail on some of what they are given."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray


def moody(batch: NDArray[Any]) -> list[object]:
    """Predict the number itself; 13 fails."""
    return [ValueError("13") if number == 13 else number for number in batch[:, 0].tolist()]


def dazzled(batch: NDArray[np.uint8]) -> list[object]:
    """Predict the brightness of each image, slowly; a batch with a white one in it fails."""
    time.sleep(0.2)
    darkest = batch.reshape(len(batch), -1).min(axis=1)
    if (darkest == 255).any():
        raise ValueError("too bright")
    return [{"brightness": number} for number in darkest.tolist()]
