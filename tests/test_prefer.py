"""What a client may write in Prefer, and what of it is honoured."""

from __future__ import annotations

import pytest

from prefer import Preferences, preferences


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Preferences()),
        ([""], Preferences()),
        (["respond-async"], Preferences(respond_async=True)),
        (["wait=10"], Preferences(10)),
        (["wait=0"], Preferences(0)),
        (["respond-async, wait=10"], Preferences(10, respond_async=True)),
        (["wait=10", "respond-async"], Preferences(10, respond_async=True)),
        ([" ,, wait = 10 ,,\trespond-async , "], Preferences(10, respond_async=True)),
    ],
)
def test_preferences_come_in_one_header_or_several(headers: list[str], expected: Preferences) -> None:
    assert preferences(", ".join(headers)) == expected


@pytest.mark.parametrize(
    "header",
    [
        "WAIT=10, Respond-Async",
        'wait="10", respond-async=""',
        "wait=10; exactly=yes, respond-async; a; b=c",
        "handling=lenient, respond-async, return=minimal, wait=10, x",
        'x="a;b", respond-async, wait=10',
    ],
)
def test_case_quotes_parameters_and_the_unknown_change_nothing(header: str) -> None:
    assert preferences(header) == Preferences(10, respond_async=True)


@pytest.mark.parametrize("value", ["", "=", "=soon", "=-1", "=+1", "=1.5", "=1e3", "=1 2", "=\u00b2", "=" + "9" * 20])
def test_a_wait_that_is_no_number_of_seconds_is_ignored(value: str) -> None:
    assert preferences(f"wait{value}, respond-async") == Preferences(respond_async=True)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [(["wait=1, wait=2"], 1), (["wait=1", "wait=2"], 1), (["Wait=1, WAIT=2"], 1), (["wait=soon, wait=2"], None)],
)
def test_the_first_of_a_name_counts(headers: list[str], wait_s: int | None) -> None:
    assert preferences(", ".join(headers)).wait_s == wait_s


@pytest.mark.parametrize(
    "header", ['x="a, wait=5"', 'x="a, wait=5, b"', r'x="\", wait=5, b"', 'y; x="a, respond-async, b"']
)
def test_a_comma_in_quotes_ends_no_preference(header: str) -> None:
    assert preferences(header) == Preferences()


@pytest.mark.parametrize(
    ("asked", "applied"),
    [
        ("", ""),
        ("return=minimal, wait=soon", ""),
        ("respond-async", "respond-async"),
        ("wait=0", "wait=0"),
        ('wait="007"', "wait=7"),
        ("wait=10, respond-async", "respond-async, wait=10"),
    ],
)
def test_what_is_applied_is_said(asked: str, applied: str) -> None:
    assert preferences(asked).applied == applied
