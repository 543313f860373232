"""The checker of histories finds every planted violation, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.history import History, Kind

RIGHT = [{"sum": 7}]
DEADLINE_S = 10.0
END_S = 100.0

Events = list[tuple[float, Kind, dict[str, object]]]

ANSWER: dict[str, object] = {"id": "a", "predictions": RIGHT, "result": "first"}


def history(events: Events, *, good: int = 3) -> History:
    """Return a history of some good requests around one that sees these events."""
    made = History()
    for number in range(good):
        request = made.sent([{"sum": number}], within_s=DEADLINE_S, at_s=0)
        made.saw(request, "answered", at_s=1, id=f"good-{number}", predictions=[{"sum": number}], result="its own")
    planted = made.sent(RIGHT, within_s=DEADLINE_S, at_s=0)
    for at_s, kind, what in events:
        made.saw(planted, kind, at_s=at_s, **what)
    return made


LOST: dict[str, Events] = {
    "never_answered": [],
    "accepted_and_never_answered": [(1, "accepted", {"id": "a"})],
    "accepted_and_unknown_later": [(1, "accepted", {"id": "a"}), (2, "gone", {"id": "a"})],
    "accepted_and_the_connection_breaks_while_collecting": [(1, "accepted", {"id": "a"}), (2, "broken", {})],
    "accepted_and_refused_while_collecting": [(1, "accepted", {"id": "a"}), (2, "refused", {})],
    "answered_late": [(DEADLINE_S + 1, "answered", ANSWER)],
    "told_that_its_time_is_over": [(1, "failed", {"code": "deadline_exceeded"})],
}
WRONG: dict[str, Events] = {
    "another_prediction": [(1, "answered", ANSWER | {"predictions": [{"sum": 8}]})],
    "one_prediction_too_many": [(1, "answered", ANSWER | {"predictions": RIGHT * 2})],
    "no_prediction": [(1, "answered", ANSWER | {"predictions": []})],
    "an_error_for_a_good_image": [(1, "failed", {"code": "model_failed"})],
    "the_id_of_another_request": [(1, "answered", ANSWER | {"id": "good-0"})],
    "wrong_when_collected_again": [
        (1, "answered", ANSWER),
        (2, "answered", ANSWER | {"predictions": [{"sum": 8}]}),
    ],
}
TWICE: dict[str, Events] = {
    "two_results": [(1, "answered", ANSWER), (2, "answered", ANSWER | {"result": "second"})],
    "collected_after_it_was_forgotten": [
        (1, "accepted", {"id": "a"}),
        (2, "answered", ANSWER),
        (3, "cancelled", {"id": "a"}),
        (4, "answered", ANSWER),
    ],
    "answered_after_it_was_cancelled": [
        (1, "accepted", {"id": "a"}),
        (2, "cancelled", {"id": "a"}),
        (3, "answered", ANSWER),
    ],
}
FINE: dict[str, Events] = {
    "answered": [(1, "answered", ANSWER)],
    "refused": [(1, "refused", {"code": "queue_full"})],
    "broken": [(1, "broken", {})],
    "accepted_and_answered": [(1, "accepted", {"id": "a"}), (2, "answered", ANSWER)],
    "the_same_result_seen_again": [(1, "accepted", {"id": "a"}), (2, "answered", ANSWER), (3, "answered", ANSWER)],
    "collected_through_a_broken_connection": [
        (1, "accepted", {"id": "a"}),
        (2, "broken", {}),
        (3, "answered", ANSWER),
    ],
    "cancelled": [(1, "accepted", {"id": "a"}), (2, "cancelled", {"id": "a"}), (3, "gone", {"id": "a"})],
    "collected_forgotten_gone": [
        (1, "accepted", {"id": "a"}),
        (2, "answered", ANSWER),
        (3, "cancelled", {"id": "a"}),
        (4, "gone", {"id": "a"}),
    ],
}


def case(cases: dict[str, Events]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return pytest.mark.parametrize("events", list(cases.values()), ids=list(cases))


@case(LOST)
def test_what_is_lost_is_found(events: Events) -> None:
    found = history(events).violations(until_s=END_S)

    assert [(one.kind, one.request) for one in found] == [("lost", 3)]


@case(WRONG)
def test_what_is_wrong_is_found(events: Events) -> None:
    found = history(events).violations(until_s=END_S)

    assert [(one.kind, one.request) for one in found] == [("wrong", 3)]


@case(TWICE)
def test_what_is_answered_twice_is_found(events: Events) -> None:
    found = history(events).violations(until_s=END_S)

    assert [(one.kind, one.request) for one in found] == [("twice", 3)]


@case(FINE)
def test_what_is_fine_is_left_alone(events: Events) -> None:
    assert history(events).violations(until_s=END_S) == []


def test_two_clients_with_each_others_answers_are_both_found() -> None:
    made = History()
    rights = [[{"sum": 1}], [{"sum": 2}]]
    for right in rights:
        made.sent(right, within_s=DEADLINE_S, at_s=0)
    for request, right in enumerate(reversed(rights)):
        made.saw(request, "answered", at_s=1, id=f"{request}", predictions=right)

    assert [(one.kind, one.request) for one in made.violations(until_s=END_S)] == [("wrong", 0), ("wrong", 1)]


def test_a_request_is_not_lost_before_its_deadline() -> None:
    planted = history([(1, "accepted", {"id": "a"})])

    assert planted.violations(until_s=DEADLINE_S) == []
    assert len(planted.violations(until_s=DEADLINE_S + 0.001)) == 1


def test_events_carry_the_time_at_which_they_were_seen() -> None:
    made = History()
    request = made.sent(RIGHT, within_s=0.0)
    made.saw(request, "answered", predictions=RIGHT)

    assert made.events[0].at_s >= made.requests[0].at_s == made.requests[0].deadline_s
    assert made.count("answered") == 1
