"""Models that fail on some of what they are given."""

from __future__ import annotations

import threading
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


class Tells:
    """Predict which thread predicts; 200 takes its time, and 255 does not come to an end."""

    input_shape = (4, 4, 3)

    def predict(self, batch: NDArray[np.uint8]) -> list[str]:
        """Return the thread's name for each of (n, 4, 4, 3) images."""
        brightest = int(batch.max())
        time.sleep({200: 2.0, 255: 60.0}.get(brightest, 0.0))
        return [threading.current_thread().name] * len(batch)


class TellsAnywhere(Tells):
    """The same, in any thread."""

    any_thread = True
