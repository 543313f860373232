"""A bound on the bytes that one api process holds for its requests, so that uploads cannot use up its memory."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from errors import QueueFull


class ByteBudget:
    """Counts what all requests of a process hold; its parts count what those of one model do, under the same limit."""

    def __init__(self, limit_bytes: int, whole: ByteBudget | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._whole = whole
        self.held_bytes = 0

    def part(self) -> ByteBudget:
        """Return a part of it."""
        return ByteBudget(self._limit_bytes, self)

    def add(self, more_bytes: int) -> None:
        """Count more, or less."""
        self.held_bytes += more_bytes
        if self._whole is not None:
            self._whole.held_bytes += more_bytes

    def share(self) -> Share:
        """Return one request's share, a context at whose end it is given back."""
        return Share(self)

    def require_room(self, more_bytes: int) -> None:
        """Look whether so much would fit; a process that holds nothing takes any request.

        Raises QueueFull.
        """
        held_bytes = self.held_bytes if self._whole is None else self._whole.held_bytes
        if held_bytes and held_bytes + more_bytes > self._limit_bytes:
            raise QueueFull("too much is being uploaded at once; try again", retry_after_s=1)


class Share:
    """What one request holds."""

    __slots__ = ("_budget", "held_bytes")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held_bytes = 0

    def __enter__(self) -> Self:
        """Hold nothing yet."""
        return self

    def __exit__(self, _kind: type[BaseException] | None, _exc: BaseException | None, _: TracebackType | None) -> None:
        """Give back all."""
        self._budget.add(-self.held_bytes)
        self.held_bytes = 0

    def hold(self, held_bytes: int) -> None:
        """Hold so much, in place of what was held before.

        Raises QueueFull.
        """
        more_bytes = held_bytes - self.held_bytes
        if more_bytes > 0:
            self._budget.require_room(more_bytes)
        self._budget.add(more_bytes)
        self.held_bytes = held_bytes
