"""A bound on the memory that one api process takes for its requests, whatever is sent to it.

What a request holds (its body, then its payloads) and what decoding its images takes are counted before they are
allocated, and share one limit. Requests have up to three quarters of it, so that a quarter is always there for
decoding: bodies that wait to be decoded cannot keep each other from it. Decoding has up to three quarters, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from errors import QueueFull, TooLarge

LARGEST_PART = 0.75
"""Of the limit: what requests, or decoding, may take; the rest is the other's in any case."""
PATIENCE_S = 1.0
"""How long decoding waits for requests to end, where nothing else is decoded whose end would make room."""
LOOK_EVERY_S = 0.02
"""How often it looks whether they have: they tell nobody, so that ending one costs nothing."""


class ByteBudget:
    """Counts what all requests of a process hold; its parts count what those of one model do, under the same limit.

    Used in the event loop's thread only. room: what decoding may take of the limit.
    """

    def __init__(self, limit_bytes: int, whole: ByteBudget | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._most_bytes = int(limit_bytes * LARGEST_PART)
        self._whole = whole
        self.held_bytes = 0
        self.room: DecodingRoom = whole.room if whole else DecodingRoom(limit_bytes, lambda: self.held_bytes)

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

    def require_room(self, share_bytes: int) -> None:
        """Look whether what has been counted fits, a share of so many bytes with it.

        Raises TooLarge where the share would not fit alone, QueueFull where it does not fit now.
        """
        held_bytes = self.held_bytes if self._whole is None else self._whole.held_bytes
        if held_bytes <= self._most_bytes and held_bytes + self.room.reserved_bytes <= self._limit_bytes:
            return
        if share_bytes > self._most_bytes:
            raise TooLarge(
                f"the request takes {share_bytes} bytes of memory, more than {self._most_bytes}: send less at once"
            )
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

        Raises TooLarge or QueueFull.
        """
        more_bytes = held_bytes - self.held_bytes
        if not more_bytes:
            return
        self._budget.add(more_bytes)  # first: a thread that reserves meanwhile sees it, or this sees what it reserves
        if more_bytes > 0:
            try:
                self._budget.require_room(held_bytes)
            except (TooLarge, QueueFull):
                self._budget.add(-more_bytes)
                raise
        self.held_bytes = held_bytes

    def pass_on(self, held_bytes: int) -> Share:
        """Return a share that holds so much for longer than this one lives."""
        other = Share(self._budget)
        other.keep(held_bytes)
        return other

    def keep(self, held_bytes: int) -> None:
        """Hold so much that is there already: it is counted, and refuses others."""
        self._budget.add(held_bytes - self.held_bytes)
        self.held_bytes = held_bytes


class DecodingRoom:
    """What the threads that decode have reserved, under the limit that they share with requests; thread-safe.

    held_bytes: tells what requests hold.
    """

    def __init__(self, limit_bytes: int, held_bytes: Callable[[], int]) -> None:
        self._limit_bytes = limit_bytes
        self._most_bytes = int(limit_bytes * LARGEST_PART)
        self._own_bytes = limit_bytes - self._most_bytes
        self._held_bytes = held_bytes
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self.reserved_bytes = 0

    @contextmanager
    def enter(self) -> Iterator[Callable[[int], None]]:
        """Give a thread its turn to open an image; yield what reserves the bytes to decode it and ends the turn.

        What was reserved is given back at the end: nothing of the image may be left then. Reserving raises TooLarge
        where there is never so much, QueueFull where requests hold it and go on to.
        """
        reserved: list[int] = []

        def reserve(size_bytes: int) -> None:
            self._reserve(size_bytes)
            reserved.append(size_bytes)
            self._turn.release()

        self._turn.acquire()
        try:
            yield reserve
        finally:
            if reserved:
                self._release(reserved[0])
            else:
                self._turn.release()

    def _reserve(self, size_bytes: int) -> None:
        if size_bytes > self._most_bytes:
            raise TooLarge(
                f"decoding the image takes {size_bytes} bytes of memory, more than {self._most_bytes}: send a smaller "
                "one"
            )
        with self._changed:
            alone_since_s: float | None = None
            while not self._took(size_bytes):
                if not self.reserved_bytes:  # requests alone are in the way
                    now_s = time.monotonic()
                    alone_since_s = alone_since_s or now_s
                    if now_s - alone_since_s > PATIENCE_S:
                        raise QueueFull("there is no memory to decode the image now; try again", retry_after_s=1)
                self._changed.wait(LOOK_EVERY_S)

    def _took(self, size_bytes: int) -> bool:
        """Reserve, unless that does not fit; requests may be taken in at any moment."""
        if not self._fits(self.reserved_bytes + size_bytes):
            return False
        self.reserved_bytes += size_bytes
        if self._fits(self.reserved_bytes):
            return True
        self.reserved_bytes -= size_bytes
        return False

    def _fits(self, reserved_bytes: int) -> bool:
        if reserved_bytes <= self._own_bytes:
            return True
        return reserved_bytes <= self._most_bytes and reserved_bytes + self._held_bytes() <= self._limit_bytes

    def _release(self, size_bytes: int) -> None:
        with self._changed:
            self.reserved_bytes -= size_bytes
            self._changed.notify_all()
