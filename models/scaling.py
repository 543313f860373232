"""Bring a batch of tensors into the numbers that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Scaling:
    """(value x scale - mean) / std, then the order of axes, then the dtype; once per batch.

    mean, std: empty, one number, or one a channel (the last axis before the layout is changed).
    layout: "nhwc" leaves the axes; "nchw" moves the channels before height and width.
    dtype: of what is handed to the model; None: float32 where anything is scaled, else as it came.
    """

    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["nhwc", "nchw"] = "nhwc"
    dtype: str | None = None

    @property
    def changes_values(self) -> bool:
        """Whether any number changes."""
        return self.scale != 1.0 or bool(self.mean) or bool(self.std)

    def apply(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the batch, shape (n, ...), as the model takes it; the input is never written to."""
        if batch.dtype == object:
            return batch
        if self.changes_values:
            batch = self._scale(batch)
        if self.layout == "nchw" and batch.ndim == 4:
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        dtype = self.dtype or ("float32" if self.changes_values else None)
        return batch if dtype is None else batch.astype(dtype, copy=False)

    def _scale(self, batch: NDArray[Any]) -> NDArray[Any]:
        wide = np.float64 if batch.dtype == np.float64 or self.dtype == "float64" else np.float32
        scaled: NDArray[np.floating[Any]] = batch.astype(wide)
        scaled *= wide(self.scale)
        if self.mean:
            scaled -= np.asarray(self.mean, wide)
        if self.std:
            scaled /= np.asarray(self.std, wide)
        return scaled
