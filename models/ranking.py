"""A row of scores told as its best classes, with their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from errors import StartError

USUAL_COUNT = 5
_PLACES = 4  # beyond them a row's scores may depend on its batch, since sums are taken in another order


@dataclass(frozen=True, slots=True)
class Ranking:
    """How scores are told.

    labels: a name for each class, in order; empty: the numbers of the classes, from 0.
    count: how many of the best are named.
    """

    labels: tuple[str, ...] = ()
    count: int = USUAL_COUNT

    def of(self, scores: NDArray[Any]) -> list[dict[str, object]]:
        """Return label and score of the best class of each row, and of the best ones: shape (n, classes).

        Raises StartError where the shape is another, or there are more or fewer classes than labels.
        """
        if scores.ndim != 2:
            raise StartError(f"MICROBATCH_TOP_K: needs scores of shape (n, classes), the model gives {scores.shape}")
        if self.labels and len(self.labels) != scores.shape[1]:
            raise StartError(f"MICROBATCH_LABELS: names {len(self.labels)} classes, the model scores {scores.shape[1]}")
        best = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, : self.count]
        return [self._told(row, places) for row, places in zip(scores, best, strict=True)]

    def _told(self, row: NDArray[Any], places: NDArray[np.intp]) -> dict[str, object]:
        top = [
            {"label": self.labels[place] if self.labels else place, "score": round(float(row[place]), _PLACES)}
            for place in places.tolist()
        ]
        return {**top[0], "top": top}


def read_labels(path: str) -> tuple[str, ...]:
    """Read a file with one label a line.

    Raises StartError where there is none.
    """
    try:
        text = Path(path).expanduser().read_text("utf-8").strip("\n")
    except (OSError, ValueError) as exc:
        raise StartError(f"MICROBATCH_LABELS={path}: {getattr(exc, 'strerror', None) or 'is no UTF-8 text'}") from exc
    if not text.strip():
        raise StartError(f"MICROBATCH_LABELS={path}: is empty")
    return tuple(line.strip() for line in text.split("\n"))
