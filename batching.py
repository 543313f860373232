"""Batching policy, no I/O: what goes together into one model call, and what a batch is expected to take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from records import ClaimedJob

Runnable = tuple[ClaimedJob, NDArray[Any] | bytes]
"""A job with its tensor or its image file."""
REMEMBERED_BATCHES = 32
REMEMBERED_ALIKE = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs of one shape and dtype, and their images as one array.

    images: shape (n, *shape of one tensor); for encoded images shape (n,), dtype object, bytes.
    """

    jobs: tuple[ClaimedJob, ...]
    images: NDArray[Any]

    @property
    def kind(self) -> object:
        """What its images have in common."""
        return self.images.shape[1:], self.images.dtype

    def part(self, places: slice | list[int]) -> Batch:
        """Return some of its rows; a slice copies no image."""
        jobs = self.jobs[places] if isinstance(places, slice) else tuple(self.jobs[place] for place in places)
        return Batch(jobs, self.images[places])

    def halves(self) -> tuple[Batch, Batch]:
        """Return its first and its second half."""
        middle = len(self.jobs) // 2
        return self.part(slice(middle)), self.part(slice(middle, None))


def group(jobs: Iterable[Runnable]) -> list[Batch]:
    """Stack what has one shape and dtype; the order within a batch is the order of the line."""
    groups: dict[object, list[Runnable]] = {}
    for job, image in jobs:
        kind = "encoded" if isinstance(image, bytes) else (image.shape, image.dtype)
        groups.setdefault(kind, []).append((job, image))
    return [
        Batch(tuple(job for job, _ in members), _stack([image for _, image in members])) for members in groups.values()
    ]


def _stack(images: list[NDArray[Any] | bytes]) -> NDArray[Any]:
    tensors = [image for image in images if not isinstance(image, bytes)]
    if tensors:
        return np.array(tensors)  # of one shape and dtype: as np.stack, in half its time
    encoded = np.empty(len(images), dtype=object)
    encoded[:] = images
    return encoded


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
