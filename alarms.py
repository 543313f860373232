"""Callbacks at about a time, for the many that are nearly always called off.

A timer of its own costs each request more than the timer is worth: called off, it is closed in a further turn of the
event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from heapq import heappop, heappush

STEP_S = 0.01
"""How late a callback may be."""
EARLY_S = 0.001
"""How early, as any timer of uvloop may be: it counts in whole milliseconds."""


class Alarms:
    """Calls back within `STEP_S` after each time; used by one event loop, of which it holds one timer."""

    def __init__(self) -> None:
        self._calls: dict[int, set[Callable[[], None]]] = {}  # by the end of their step
        self._steps: list[int] = []  # a heap
        self._timer: asyncio.TimerHandle | None = None

    def set(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called in so long; return what calls that off."""
        step = math.ceil((asyncio.get_running_loop().time() + delay_s) / STEP_S)
        calls = self._calls.get(step)
        if calls is None:
            self._calls[step] = calls = set()
            heappush(self._steps, step)
            if self._steps[0] == step:
                self._wind()
        calls.add(call)
        return lambda: calls.discard(call)

    def _wind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._steps[0] * STEP_S, self._ring)

    def _ring(self) -> None:
        """Call what is due, and come back for the next; steps of which all was called off are left out."""
        now_s = asyncio.get_running_loop().time() + EARLY_S
        self._timer = None
        due: list[Callable[[], None]] = []
        while self._steps and (self._steps[0] * STEP_S <= now_s or not self._calls[self._steps[0]]):
            due += self._calls.pop(heappop(self._steps))
        if self._steps:
            self._wind()
        for call in due:
            call()
