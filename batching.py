"""Batching policy, no I/O: what goes together into one model call, and what a batch is expected to take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median_low
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
MOST_DEFINED = 8
"""Of how many batches of a size class the median is taken."""


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


@dataclass(slots=True)
class _SizeClass:
    """What the last batches of sizes with as many binary digits took: their calls alone, and with decoding."""

    least_size: int
    calls_s: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED_ALIKE))
    all_s: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_DEFINED))


class BatchEstimate:
    """What batches are expected to take, from what the last ones took.

    full_size: the most images in one batch.
    cap_s: no estimate is longer, or one slow batch could make the service refuse everybody for ever.
    """

    def __init__(self, *, cap_s: float, full_size: int = 32) -> None:
        self._cap_s = cap_s
        self._full_size = full_size
        self._last: deque[float] = deque(maxlen=REMEMBERED_BATCHES)
        self._classes: dict[int, _SizeClass] = {}  # the one that was seen last is the last one
        self._seen_at_s = 0.0

    def add(self, call_s: float, *, size: int, now_s: float, decode_s: float = 0.0) -> None:
        """Remember a batch that has just ended: what its call took, and what decoding its images took before."""
        self._last.append(decode_s + call_s)
        self._seen_at_s = now_s
        alike = self._class_of(size)
        alike.calls_s.append(call_s)
        alike.all_s.append(decode_s + call_s)

    def begin(self, call_s: float, *, size: int) -> None:
        """Take a first value from a batch of blank images, for `full_s` alone: real ones may take longer."""
        self._class_of(size).all_s.append(call_s)

    def _class_of(self, size: int) -> _SizeClass:
        """Return the class of a size, which is from now on the one that was seen last."""
        digits = size.bit_length()
        alike = self._classes.pop(digits, None) or _SizeClass(size)
        alike.least_size = min(alike.least_size, size)
        self._classes[digits] = alike
        return alike

    @property
    def full_s(self) -> float:
        """What a full batch takes, for admission; 0 while nothing is known. It stays while nothing runs.

        The median of the last full batches. What smaller ones took that were seen since bounds it: a full batch takes
        no less, and no more than in proportion to its size.
        """
        estimate_s = 0.0
        for alike in self._classes.copy().values():  # the thread of the heartbeat asks too
            values_s = alike.all_s.copy()
            least_s = median_low(values_s) if values_s else 0.0
            most_s = least_s * max(1.0, self._full_size / alike.least_size)
            estimate_s = min(max(estimate_s, least_s), most_s) if estimate_s else most_s
        return min(estimate_s, self._cap_s)

    def value_s(self, *, now_s: float) -> float:
        """Return the least that a batch takes, by which a claim leaves out what cannot be in time; 0: not known.

        Halved with each second in which no batch was seen: else a model that was slow for a while would never be given
        a job again whose deadline is shorter than that.
        """
        if not self._last:
            return 0.0
        silent_s = max(0.0, now_s - self._seen_at_s)
        return min(*self._last, self._cap_s) * 0.5 ** int(silent_s)

    @property
    def usual_s(self) -> float:
        """What a batch takes at least, however long ago the last one was; 0 while nothing is known."""
        return min(self._last, default=0.0)

    def least_s(self, size: int) -> float:
        """Return the least that the calls of the last batches of about this size took; 0 where there was none."""
        alike = self._classes.get(size.bit_length())
        return min(alike.calls_s, default=0.0) if alike else 0.0
