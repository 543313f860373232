"""Batching policy, no I/O: what goes together into one model call, and what a batch is expected to take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from records import ClaimedJob

Image = NDArray[Any] | bytes
Runnable = tuple[ClaimedJob, Image]
"""A job with its tensor or its image file."""
ENCODED = "encoded"
REMEMBERED_BATCHES = 32
REMEMBERED_ALIKE = 4


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs whose images have one shape and dtype.

    images: what each call's array is made of, one a job: tensors, or image files. Nothing writes to them.
    """

    jobs: tuple[ClaimedJob, ...]
    images: tuple[Image, ...]
    _prepared: NDArray[Any] | None = None

    @property
    def kind(self) -> object:
        """What its images have in common."""
        first = self.images[0]
        return ENCODED if isinstance(first, bytes) else (first.shape, first.dtype)

    def part(self, places: slice | list[int]) -> Batch:
        """Return some of its rows; no image is copied."""
        if isinstance(places, slice):
            return Batch(self.jobs[places], self.images[places])
        return Batch(tuple(self.jobs[place] for place in places), tuple(self.images[place] for place in places))

    def halves(self) -> tuple[Batch, Batch]:
        """Return its first and its second half."""
        middle = len(self.jobs) // 2
        return self.part(slice(middle)), self.part(slice(middle, None))

    def prepare(self, rows: int) -> None:
        """Make the array of its first call now, while another call runs."""
        self._prepared = self._stack(rows)

    def take(self, rows: int) -> NDArray[Any]:
        """Return the array of one call: a new one each time, since a model may write to what it is given.

        rows: how many it has; those after the jobs' repeat the last one, which is within what the model was made for.
        Shape (rows, *shape of one tensor); for image files shape (rows,), dtype object, bytes.
        """
        prepared, self._prepared = self._prepared, None
        return self._stack(rows) if prepared is None else prepared

    def _stack(self, rows: int) -> NDArray[Any]:
        missing = rows - len(self.images)
        images = [*self.images, *self.images[-1:] * missing] if missing else self.images
        if not isinstance(images[0], bytes):
            return np.array(images)  # of one shape and dtype: as np.stack, in half its time
        files = np.empty(rows, dtype=object)
        files[:] = images
        return files


def group(jobs: Iterable[Runnable]) -> list[Batch]:
    """Put together what has one shape and dtype; the order within a batch is the order of the line."""
    groups: dict[object, list[Runnable]] = {}
    for job, image in jobs:
        kind = ENCODED if isinstance(image, bytes) else (image.shape, image.dtype)
        groups.setdefault(kind, []).append((job, image))
    return [
        Batch(tuple(job for job, _ in members), tuple(image for _, image in members)) for members in groups.values()
    ]


class BatchEstimate:
    """What a batch is expected to take: the least of the last ones.

    Never more than `cap_s`, and halved with each second in which no batch was seen, so that one slow batch cannot
    make the service refuse everybody for ever.
    """

    def __init__(self, *, cap_s: float) -> None:
        self._cap_s = cap_s
        self._last: deque[float] = deque(maxlen=REMEMBERED_BATCHES)
        self._alike: dict[int, deque[float]] = {}
        self._seen_at_s = 0.0

    def add(self, call_s: float, *, size: int, now_s: float, decode_s: float = 0.0) -> None:
        """Remember a batch that has just ended: what its call took, and what decoding its images took before."""
        self._last.append(decode_s + call_s)
        self._alike.setdefault(size.bit_length(), deque(maxlen=REMEMBERED_ALIKE)).append(call_s)
        self._seen_at_s = now_s

    def value_s(self, *, now_s: float) -> float:
        """Return the estimate; 0 while nothing is known."""
        if not self._last:
            return 0.0
        silent_s = max(0.0, now_s - self._seen_at_s)
        return min(*self._last, self._cap_s) * 0.5 ** int(silent_s)

    @property
    def usual_s(self) -> float:
        """What a batch takes, however long ago the last one was; 0 while nothing is known."""
        return min(self._last, default=0.0)

    def least_s(self, size: int) -> float:
        """Return the least that the calls of the last batches of about this size took; 0 where there was none."""
        return min(self._alike.get(size.bit_length(), (0.0,)))
