"""Handwritten digits: a small network in numpy, with its weights beside it (see tools/train_digits.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import Settings
from inputs import ModelInput
from models.choice import Choice
from models.in_process import InProcess

WEIGHTS = Path(__file__).with_name("digits.npz")
_PLACES = 4  # beyond them a row's scores may depend on its batch, since sums are taken in another order


class Digits:
    """Tell the digits 0 to 9 apart: 64 pixels, one hidden layer (ReLU), ten scores (softmax)."""

    takes = ModelInput(shape=(8, 8), dtype="uint8", fit="ink")

    def __init__(self) -> None:
        with np.load(WEIGHTS, allow_pickle=False) as stored:
            self._layers = [
                (stored[f"weights_{layer}"].astype(np.float64), stored[f"bias_{layer}"].astype(np.float64))
                for layer in (0, 1)
            ]

    def predict(self, batch: NDArray[Any]) -> list[dict[str, object]]:
        """Return label, its score and all ten scores for each image.

        batch: shape (n, 8, 8), uint8, light ink on black; scikit-learn's value v of 0..16 is round(v * 255 / 16).
        """
        (weights_0, bias_0), (weights_1, bias_1) = self._layers
        pixels = batch.reshape(-1, len(weights_0)) / 255.0
        logits = np.maximum(pixels @ weights_0 + bias_0, 0) @ weights_1 + bias_1
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = np.round(odds / odds.sum(axis=1, keepdims=True), _PLACES)
        return [{"label": int(row.argmax()), "score": float(row.max()), "scores": row.tolist()} for row in scores]


def open_model(settings: Settings) -> InProcess:
    """Open it, with what the settings say of its input."""
    digits = Digits()
    return InProcess(
        digits.predict,
        takes=Choice.of(settings).over(digits.takes),
        scaling=Choice.of(settings).scaling,
        any_thread=True,
    )
