"""When a batcher leaves its model server alone."""

from __future__ import annotations

from breaker import LONGEST_PAUSE_S, MOST_RETRIES, OPENS_AT, CircuitBreaker


def test_it_opens_after_failures_in_a_row_and_closes_with_an_answer() -> None:
    breaker = CircuitBreaker()

    for _ in range(OPENS_AT - 1):
        breaker.failed(now_s=0)
    before = breaker.is_open
    breaker.failed(now_s=0)
    after = breaker.is_open
    breaker.answered()

    assert [before, after, breaker.is_open] == [False, True, False]


def test_pauses_grow_to_their_limit_and_pass() -> None:
    breaker = CircuitBreaker()
    pauses = []
    for _ in range(12):
        breaker.failed(now_s=100)
        pauses.append(breaker.pause_s(now_s=100))

    assert pauses[0] <= 0.05
    assert max(pauses) <= LONGEST_PAUSE_S
    assert min(pauses[-3:]) >= LONGEST_PAUSE_S / 2
    assert breaker.pause_s(now_s=100 + LONGEST_PAUSE_S) == 0


def test_a_server_that_fails_now_and_then_is_retried_within_a_budget() -> None:
    breaker = CircuitBreaker()
    retried = 0
    for _ in range(200):
        retried += breaker.failed(now_s=0)
        breaker.answered()

    assert retried <= MOST_RETRIES + 200 * 0.2
    assert retried >= 200 * 0.2


def test_while_open_nothing_is_given_up() -> None:
    breaker = CircuitBreaker()

    assert all(breaker.failed(now_s=0) for _ in range(100))
