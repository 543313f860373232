"""What a client reads: predictions in order, problems with their code, and where the time went."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from starlette.responses import Response

from answers import MOST_BATCHES, accepted, add_timing, predictions, problem
from asgi import Answer
from errors import WIRE_ERRORS, InvalidImage, ModelFailed, QueueFull, ServiceError, TooLarge
from records import Result, Timing


def done(prediction: bytes = b'{"label":7}', timing: Timing | None = None) -> Result:
    return Result("uuid", prediction, None, timing or Timing())


def failed(error: ServiceError) -> Result:
    return Result("uuid", b"null", error, Timing())


def content(response: Response) -> Any:
    return orjson.loads(bytes(response.body))


@pytest.mark.parametrize("kind", WIRE_ERRORS)
def test_every_error_is_a_problem_with_its_code_and_status(kind: type[ServiceError]) -> None:
    response = problem(kind('it is "broken"; mend it'), {"Vary": "Prefer"})

    document = content(response)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["vary"] == "Prefer"
    assert response.status_code == document["status"] == kind.http_status
    assert document["code"] == kind.code
    assert document["detail"] == 'it is "broken"; mend it'
    assert document["title"]


@pytest.mark.parametrize("kind", WIRE_ERRORS)
def test_only_429_and_503_say_when_to_try_again(kind: type[ServiceError]) -> None:
    response = problem(kind("later", retry_after_s=3.0))

    assert response.headers.get("retry-after") == ("3" if kind.http_status in (429, 503) else None)


@pytest.mark.parametrize(("retry_after_s", "said"), [(None, "1"), (0.0, "1"), (0.2, "1"), (1.0, "1"), (2.01, "3")])
def test_retry_after_is_in_whole_seconds_never_too_early_and_at_least_one(
    retry_after_s: float | None, said: str
) -> None:
    assert problem(QueueFull("full", retry_after_s=retry_after_s)).headers["retry-after"] == said


@pytest.mark.parametrize("prediction", [b'{"label":7}', b"[0.25,0.75]", b"0", b"null", b"false"])
def test_one_prediction_comes_as_the_model_gave_it(prediction: bytes) -> None:
    response = predictions("id", [done(prediction)])

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert content(response) == {"id": "id", "predictions": [orjson.loads(prediction)]}


def test_predictions_keep_their_order_with_the_failed_ones_in_their_places() -> None:
    response = predictions("id", [TooLarge("big"), done(b"1"), failed(ModelFailed("raised")), done(b"2")])

    assert response.status_code == 200
    assert content(response)["predictions"] == [
        {"error": {"code": "too_large", "message": "big"}},
        1,
        {"error": {"code": "model_failed", "message": "raised"}},
        2,
    ]


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([InvalidImage("broken")], "invalid_image"),
        ([failed(ModelFailed("raised"))], "model_failed"),
        ([InvalidImage("broken"), failed(ModelFailed("raised"))], "invalid_image"),
        ([failed(ModelFailed("raised")), InvalidImage("broken")], "model_failed"),
    ],
)
def test_where_all_failed_the_first_error_is_the_answer(outcomes: list[Result | ServiceError], code: str) -> None:
    response = predictions("id", outcomes)

    assert response.headers["content-type"] == "application/problem+json"
    assert content(response)["code"] == code
    assert content(response)["status"] == response.status_code


@pytest.mark.parametrize("turn", range(4))
def test_the_timing_is_that_of_the_slowest_image(turn: int) -> None:
    # given
    outcomes: list[Result | ServiceError] = [
        done(timing=Timing(queue_s=0.5, model_s=0.01, batch_size=2)),
        done(timing=Timing(queue_s=0.4, model_s=0.25, batch_size=3)),
        done(timing=Timing(queue_s=0.1, model_s=0.3, batch_size=4)),
        InvalidImage("broken"),
    ]
    response = Answer(200, b"", ())

    # when
    add_timing(response, outcomes[turn:] + outcomes[:turn], decode_s=0.00123, total_s=2.0)

    # then: milliseconds, as Server-Timing has them
    assert response.headers["server-timing"] == "decode;dur=1.23, queue;dur=400.00, model;dur=250.00, total;dur=2000.00"
    assert response.headers["microbatch-batch-size"] == "3"


def test_an_answer_of_several_images_names_their_batches_and_how_many_of_each_are_its_own() -> None:
    timings = [Timing(batch_size=32, batch_id="a1"), Timing(batch_size=7, batch_id="b2")]
    response, lone = Answer(200, b"", ()), Answer(200, b"", ())

    add_timing(response, [done(timing=timings[place]) for place in (0, 1, 0)])
    add_timing(lone, [done(timing=timings[0])])

    assert response.headers["microbatch-batches"] == '"a1";size=32;images=2, "b2";size=7;images=1'
    assert "microbatch-batches" not in lone.headers


def test_an_answer_names_no_more_batches_than_a_header_may_be_long() -> None:
    response = Answer(200, b"", ())

    add_timing(response, [done(timing=Timing(batch_size=1, batch_id=f"{place:012x}")) for place in range(1024)])

    assert response.headers["microbatch-batches"].count(";size=1;images=1") == MOST_BATCHES


def test_a_request_that_reached_no_model_spent_no_time_there() -> None:
    response = Answer(200, b"", ())

    add_timing(response, [InvalidImage("broken")], decode_s=0.001, total_s=0.002)

    assert response.headers["server-timing"] == "decode;dur=1.00, queue;dur=0.00, model;dur=0.00, total;dur=2.00"
    assert response.headers["microbatch-batch-size"] == "0"


def test_what_is_accepted_says_where_its_answer_will_be() -> None:
    response = accepted("some-id")

    assert response.status_code == 202
    assert response.headers["location"] == "/results/some-id"
    assert content(response)["id"] == "some-id"
