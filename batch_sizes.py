"""Policy of sizes, no I/O: the sizes of batch that a model is made for, and those that its memory has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batching import Batch

PROBE_S = 30.0
"""How long a batch of the largest size that fits is run before a larger one is tried."""
GROWTH = 8
"""A larger one has an eighth more rows, or one."""


@dataclass(slots=True)
class _Ceiling:
    size: int
    probe_at_s: float


class BatchSizes:
    """How many images go into one call.

    allowed: the sizes that the model is made for, ascending; empty: any.
    """

    def __init__(self, allowed: Sequence[int] = ()) -> None:
        self.allowed = tuple(allowed)
        self._ceilings: dict[object, _Ceiling] = {}

    def padded(self, count: int) -> int:
        """Return the next allowed size for so many images; any is allowed where none is named."""
        return min((size for size in self.allowed if size >= count), default=count) if self.allowed else count

    def split(self, batch: Batch) -> list[Batch]:
        """Return a batch in parts that the model takes and has, as far as is known, memory for."""
        if not self.allowed and not self._ceilings:
            return [batch]
        limits = [*self.allowed[-1:], *(ceiling.size for ceiling in [self._ceiling(batch)] if ceiling)]
        largest = min(limits, default=len(batch.jobs))
        return [batch.part(slice(first, first + largest)) for first in range(0, len(batch.jobs), largest)]

    def overflowed(self, batch: Batch, *, now_s: float) -> bool:
        """Remember that there was no memory for a batch; False where none can be smaller.

        One image that alone is too much says nothing of the others of its shape, which are files of any size.
        """
        tried = self.padded(len(batch.jobs))
        smaller = [size for size in self.allowed or range(1, tried // 2 + 1) if size < tried]
        if not smaller:
            self._ceilings.pop(batch.kind, None)
            return False
        self._ceilings[batch.kind] = _Ceiling(max(smaller), now_s + PROBE_S)
        return True

    def passed(self, batch: Batch, *, now_s: float) -> None:
        """Let a shape that has been at its ceiling for a while have a little more."""
        ceiling = self._ceiling(batch)
        if ceiling and len(batch.jobs) >= ceiling.size and now_s >= ceiling.probe_at_s:
            ceiling.size += max(1, ceiling.size // GROWTH)
            ceiling.probe_at_s = now_s + PROBE_S

    def _ceiling(self, batch: Batch) -> _Ceiling | None:
        return self._ceilings.get(batch.kind)
