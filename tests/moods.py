"""A model that fails on one number."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


def moody(batch: NDArray[Any]) -> list[object]:
    """Predict the number itself; 13 fails."""
    return [ValueError("13") if number == 13 else number for number in batch[:, 0].tolist()]
