"""A bound on the bytes that one api process holds for its requests, so that uploads cannot use up its memory."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from errors import QueueFull


class ByteBudget:
    """Counts what all requests of a process hold."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.held_bytes = 0

    def share(self) -> Share:
        """Return one request's share, a context at whose end it is given back."""
        return Share(self)

    def require_room(self, more_bytes: int) -> None:
        """Look whether so much would fit; a process that holds nothing takes any request.

        Raises QueueFull.
        """
        if self.held_bytes and self.held_bytes + more_bytes > self._limit_bytes:
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
        self._budget.held_bytes -= self.held_bytes
        self.held_bytes = 0

    def hold(self, held_bytes: int) -> None:
        """Hold so much, in place of what was held before.

        Raises QueueFull.
        """
        more_bytes = held_bytes - self.held_bytes
        if more_bytes > 0:
            self._budget.require_room(more_bytes)
        self._budget.held_bytes += more_bytes
        self.held_bytes = held_bytes
