"""Models to measure with: `MICROBATCH_MODEL=python:bench.models:Small`."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

SEED = 20_240


class Small:
    """A linear model of one pixel in sixteen: next to decoding a photo it costs nothing."""

    input_shape = (224, 224, 3)

    def __init__(self) -> None:
        self._weights = np.random.default_rng(SEED).standard_normal((224 * 224 * 3 // 16, 10), np.float32)

    def predict(self, batch: NDArray[np.uint8]) -> list[int]:
        """Return the class of each of (n, 224, 224, 3) images."""
        scores = batch.reshape(len(batch), -1)[:, ::16].astype(np.float32) @ self._weights
        return [int(label) for label in scores.argmax(axis=1)]


class Convolution:
    """Three convolutions of 3 x 3: what a call costs is its arithmetic, for 32 images 32 times that for one."""

    input_shape = (48, 48, 3)

    def __init__(self) -> None:
        random = np.random.default_rng(SEED)
        channels = (3, 32, 32, 32)
        self._layers = [
            random.standard_normal((9 * before, after), np.float32) / 16 for before, after in pairwise(channels)
        ]

    def predict(self, batch: NDArray[np.uint8]) -> list[int]:
        """Return the class of each of (n, 48, 48, 3) images."""
        values = batch.astype(np.float32) / 255
        for layer in self._layers:
            windows = sliding_window_view(values, (3, 3), axis=(1, 2))  # (n, height, width, channels, 3, 3)
            values = np.maximum(windows.reshape(*windows.shape[:3], -1) @ layer, 0)
        return [int(label) for label in values.mean(axis=(1, 2)).argmax(axis=1)]


class Wide:
    """Three layers of 4096 x 4096 weights: what a call costs is to read them, be it for one row or for 32."""

    input_shape = (4096,)

    def __init__(self) -> None:
        random = np.random.default_rng(SEED)
        self._layers = [random.standard_normal((4096, 4096), np.float32) / 64 for _ in range(3)]

    def predict(self, batch: NDArray[np.uint8]) -> list[int]:
        """Return the class of each of (n, 4096) rows."""
        values = batch.astype(np.float32) / 255
        for layer in self._layers:
            values = np.maximum(values @ layer, 0)
        return [int(label) for label in values[:, :10].argmax(axis=1)]
