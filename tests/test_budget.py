"""What requests hold and what decoding takes is counted first, and shares one limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from budget import PATIENCE_S, ByteBudget, DecodingRoom
from errors import QueueFull, TooLarge

LIMIT = 100


@pytest.fixture
def budget() -> ByteBudget:
    return ByteBudget(LIMIT)


def decode(room: DecodingRoom, size: int, until: Callable[[], object] = lambda: None) -> str:
    """Decode an image of a size, in this thread; return what came of it."""
    try:
        with room.enter() as reserve:
            reserve(size)
            until()
    except (QueueFull, TooLarge) as exc:
        return exc.code
    return "decoded"


def test_a_request_that_never_fits_is_too_large_and_one_that_does_not_fit_now_is_refused(budget: ByteBudget) -> None:
    with budget.share() as first, budget.share() as second:
        with pytest.raises(TooLarge):
            first.hold(76)
        first.hold(50)
        with pytest.raises(QueueFull):
            second.hold(26)
        second.hold(25)

        assert budget.held_bytes == 75
    assert budget.held_bytes == 0


def test_a_refused_request_still_holds_what_it_held(budget: ByteBudget) -> None:
    with budget.share() as first, budget.share() as second:
        first.hold(70)
        second.hold(5)
        with pytest.raises(QueueFull):
            second.hold(6)

        assert (second.held_bytes, budget.held_bytes) == (5, 75)


def test_results_are_counted_whatever_there_is_already(budget: ByteBudget) -> None:
    with budget.share() as answered, budget.share() as other:
        answered.keep(500)
        with pytest.raises(QueueFull):
            other.hold(1)
        answered.keep(0)
        other.hold(1)


def test_what_is_passed_on_outlives_its_share(budget: ByteBudget) -> None:
    with budget.share() as share:
        share.hold(10)
        longer = share.pass_on(30)

        assert budget.held_bytes == 40
    assert budget.held_bytes == 30
    with longer:
        pass
    assert budget.held_bytes == 0


def test_requests_and_decoding_share_the_limit(budget: ByteBudget) -> None:
    with budget.share() as share, budget.room.enter() as reserve:
        reserve(60)
        share.hold(40)
        with pytest.raises(QueueFull):
            share.hold(41)
    assert budget.room.reserved_bytes == 0


def test_a_part_is_always_left_for_decoding(budget: ByteBudget) -> None:
    with budget.share() as share:
        share.hold(75)

        assert decode(budget.room, 25) == "decoded"


def test_an_image_that_never_fits_is_too_large(budget: ByteBudget) -> None:
    assert decode(budget.room, 75) == "decoded"
    assert decode(budget.room, 76) == "too_large"
    assert decode(budget.room, 75) == "decoded"  # nothing is left behind


def test_an_image_that_requests_leave_no_room_for_is_refused_after_a_while(budget: ByteBudget) -> None:
    with budget.share() as share:
        share.hold(60)
        began_s = time.monotonic()

        assert decode(budget.room, 41) == "queue_full"
        assert PATIENCE_S <= time.monotonic() - began_s < PATIENCE_S + 1
    assert budget.room.reserved_bytes == 0


def test_an_image_waits_for_the_requests_before_it_to_end(budget: ByteBudget) -> None:
    share = budget.share()
    share.hold(60)
    threading.Timer(0.1, share.hold, (0,)).start()

    assert decode(budget.room, 75) == "decoded"


def test_threads_never_reserve_more_than_there_is_and_each_gets_its_turn(budget: ByteBudget) -> None:
    seen: list[int] = []

    def look() -> None:
        time.sleep(0.001)
        seen.append(budget.room.reserved_bytes)

    with ThreadPoolExecutor(8) as threads:
        sizes = [75, 1, 40, 30, 10, 74, 25, 5] * 20
        outcomes = list(threads.map(lambda size: decode(budget.room, size, look), sizes))

    assert set(outcomes) == {"decoded"}
    assert max(seen) <= 75
    assert budget.room.reserved_bytes == 0


def test_an_image_that_cannot_be_opened_gives_its_turn_back(budget: ByteBudget) -> None:
    with pytest.raises(OSError, match="broken"), budget.room.enter():
        raise OSError("broken")

    assert decode(budget.room, 75) == "decoded"
