"""Many requests at once at a service that was quiet: what is accepted is answered in time from the first moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from bench.load import request_bytes
from tests.stack import Stack, npy, until_ready
from tests.test_overload import Answer, Flood

IMAGE_S = 0.0125
CAPACITY = 1 / IMAGE_S
"""Images a second of one batcher."""
DEADLINE_S = 2.0
BURST = 400
MODEL = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_SIMULATED_IMAGE_S": str(IMAGE_S)}


@pytest.fixture
async def flood(stack: Stack, client: httpx.AsyncClient) -> AsyncIterator[Flood]:
    """Yield a flood at an api that has just become ready, and whose batcher has not seen any image."""
    stack.start_redis()
    stack.start_batcher(**MODEL)
    stack.start_api(MICROBATCH_REQUEST_TIMEOUT_S=str(DEADLINE_S))
    await until_ready(client)
    body = npy(np.zeros((32, 32, 3), np.uint8))
    opened = Flood(f"{stack.folder}/api.sock", request_bytes("http://service", body, "application/x-npy"))
    yield opened
    opened.close()


def look_at(answers: list[Answer], within_s: float) -> None:
    answered = sum(one.status == 200 for one in answers)
    refused = [one for one in answers if one.status == 429]
    accepted = len(answers) - len(refused)
    retry_s = sorted({int(one.retry_after) for one in refused})
    possible = min(len(answers), CAPACITY * within_s)
    print(f"{answered} of {accepted} accepted in time, {answered / possible:.3f} of {possible:.0f}, {retry_s}")  # noqa: T201  # shown by -rP

    assert {one.status for one in answers} <= {200, 429, 504}
    assert answered >= 0.98 * accepted
    assert all(1 <= seconds <= DEADLINE_S + 1 for seconds in retry_s)


@pytest.mark.parametrize("quiet_s", [0, *(pytest.param(seconds, marks=pytest.mark.long) for seconds in (1, 5, 30))])
async def test_what_is_accepted_of_a_burst_is_answered_in_time(flood: Flood, quiet_s: float) -> None:
    await asyncio.sleep(quiet_s)  # nothing runs: this is the state that is tested

    answers = await flood.run(rate=20_000, seconds=BURST / 20_000)

    look_at(answers, DEADLINE_S)
    assert sum(one.status == 200 for one in answers) >= 0.55 * CAPACITY * DEADLINE_S


@pytest.mark.long
async def test_a_second_burst_after_a_quiet_time_is_like_the_first(flood: Flood) -> None:
    for quiet_s in (0, 6, 12):
        await asyncio.sleep(quiet_s)  # as above

        look_at(await flood.run(rate=20_000, seconds=BURST / 20_000), DEADLINE_S)


@pytest.mark.long
@pytest.mark.parametrize("times_capacity", [1.5, 3.0, 10.0])
async def test_ten_seconds_of_overload_are_worked_off_at_full_speed(flood: Flood, times_capacity: float) -> None:
    seconds = 10.0
    answers = await flood.run(rate=CAPACITY * times_capacity, seconds=seconds)

    look_at(answers, seconds)
    assert sum(one.status == 200 for one in answers) >= 0.95 * CAPACITY * seconds
