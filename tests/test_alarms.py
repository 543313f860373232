"""Alarms: in time, at most once, and without a timer each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest
import uvloop

from alarms import STEP_S, Alarms

LATE_S = 0.25
"""What a loaded machine may add."""


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_each_is_called_once_in_its_time(run: Callable[..., object]) -> None:
    async def ring() -> dict[float, float]:
        alarms, rung, began_s = Alarms(), dict[float, float](), time.monotonic()

        def note(delay_s: float) -> None:
            assert delay_s not in rung
            rung[delay_s] = time.monotonic() - began_s

        for delay_s in (0.2, 0.05, 0.0, 0.1, 0.07):  # each earlier one comes first, however they were set
            alarms.set(delay_s, partial(note, delay_s))
        while len(rung) < 5:
            await asyncio.sleep(0.005)
        return rung

    rung = run(ring())

    assert isinstance(rung, dict)
    assert list(rung) == sorted(rung)
    assert all(delay_s <= at_s + 0.001 and at_s < delay_s + STEP_S + LATE_S for delay_s, at_s in rung.items()), rung


async def test_what_is_called_off_is_not_called_and_the_others_are() -> None:
    alarms, rung = Alarms(), list[str]()
    call_off = alarms.set(0.02, lambda: rung.append("first"))
    alarms.set(0.02, lambda: rung.append("second"))
    alone = alarms.set(0.04, lambda: rung.append("third"))
    call_off()
    alone()
    over = asyncio.Event()
    alarms.set(0.06, over.set)
    await asyncio.wait_for(over.wait(), 5)

    assert rung == ["second"]


async def test_thousands_that_are_called_off_hold_one_timer_and_nothing_of_them_stays() -> None:
    alarms, loop, over = Alarms(), asyncio.get_running_loop(), asyncio.Event()
    for number in range(5000):
        alarms.set(0.02 + number % 7 / 100, over.set)()
    alarms.set(0.1, over.set)
    timers = len(loop._scheduled)  # type: ignore[attr-defined]  # noqa: SLF001
    await asyncio.wait_for(over.wait(), 5)

    assert timers == 1
    assert not alarms._calls  # noqa: SLF001
    assert not alarms._steps  # noqa: SLF001


async def test_one_that_is_set_while_others_ring_rings_too() -> None:
    alarms, over = Alarms(), asyncio.Event()

    def ring_again() -> None:
        alarms.set(0.01, over.set)

    alarms.set(0.01, ring_again)

    await asyncio.wait_for(over.wait(), 5)
