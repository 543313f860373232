"""A model behind a server, whichever it speaks: what its answers mean, and what happens on the way there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import pytest

from errors import BatchTooLarge, ModelFailed, ModelUnavailable, ServiceError
from logs import JsonFormatter
from model_client import ModelClient
from tests import open_inference_client, tf_serving_client
from tests.model_server import last_call
from tests.open_inference_client import plain


@dataclass(frozen=True)
class Kind:
    """A kind of model server. first: the sum of its first picture; each further one has 48 more."""

    serving: Callable[..., contextlib.AbstractContextManager[tuple[Any, int]]]
    opened: Callable[..., contextlib.AbstractAsyncContextManager[ModelClient]]
    pictures: Callable[[int], Any]
    first: float

    def sums(self, count: int) -> list[float]:
        """Return what the model answers of so many pictures."""
        return [self.first + 48.0 * place for place in range(count)]


KINDS = {
    "tf-serving": Kind(tf_serving_client.serving, tf_serving_client.opened, tf_serving_client.pictures, 0.0),
    "open-inference": Kind(
        open_inference_client.serving, open_inference_client.warm, open_inference_client.pictures, 48.0
    ),
}


@dataclass(frozen=True)
class Place:
    """A model server that runs."""

    kind: Kind
    url: str

    def model(self, name: str, **more: Any) -> contextlib.AbstractAsyncContextManager[ModelClient]:
        """Open a client of one of its models."""
        return self.kind.opened(self.url, name, **more)


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kind = KINDS[request.param]
    with kind.serving() as (_, port):
        yield Place(kind, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ModelFailed),
        (401, ModelUnavailable),
        (403, ModelUnavailable),
        (404, ModelUnavailable),
        (409, ModelUnavailable),
        (413, ModelFailed),
        (418, ModelUnavailable),
        (429, ModelUnavailable),
        (499, ModelUnavailable),
        (500, ModelFailed),
        (501, ModelFailed),
        (502, ModelUnavailable),
        (503, ModelUnavailable),
        (504, ModelUnavailable),
    ],
)
@pytest.mark.parametrize("speaker", ["fail", "html"])
async def test_every_status_has_its_error_and_tells_clients_nothing_of_the_server(
    place: Place, speaker: str, status: int, error: type[ServiceError]
) -> None:
    async with place.model(f"{speaker}-{status}") as model:
        with pytest.raises(error) as caught:
            await model.predict(place.kind.pictures(1))

    assert type(caught.value) is error
    assert len(caught.value.message) < 80
    assert not any(text in caught.value.message for text in ("127.0.0.1", "xxx", "html", "Gateway"))


async def test_the_log_holds_no_long_answer(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "models.server")
    async with place.model("fail-500") as model:
        with pytest.raises(ModelFailed):
            await model.predict(place.kind.pictures(1))

    lines = JsonFormatter({}).format
    records = [lines(record) for record in caplog.records if record.name == "models.server"]
    assert [len(record) < 600 and "\n" not in record for record in records] == [True]


async def test_a_server_without_memory_for_a_batch_says_so_and_takes_a_smaller_one(place: Place) -> None:
    async with place.model("small_memory") as model:
        with pytest.raises(BatchTooLarge):
            await model.predict(place.kind.pictures(3))

        assert plain(await model.predict(place.kind.pictures(2))) == place.kind.sums(2)


async def test_rows_that_the_model_cannot_take_are_refused(place: Place) -> None:
    async with place.model("sum") as model:
        with pytest.raises(ModelFailed, match="shape"):
            await model.predict(np.zeros((1, 5, 4, 3), np.uint8))


@pytest.mark.parametrize("name", ["slow-5", "drip-5"])
async def test_a_call_ends_at_its_time_limit_also_where_bytes_trickle_in(place: Place, name: str) -> None:
    async with place.model(name, timeout_s=0.5) as model:
        started = monotonic()
        with pytest.raises(ModelUnavailable):
            await model.predict(place.kind.pictures(1))

    assert monotonic() - started < 1.5


@pytest.mark.parametrize("name", ["cut", "drop"])
async def test_a_connection_cut_by_the_server_is_unavailable(place: Place, name: str) -> None:
    async with place.model(name) as model:
        with pytest.raises(ModelUnavailable, match="does not answer"):
            await model.predict(place.kind.pictures(1))


async def test_a_kept_connection_that_the_server_has_closed_costs_no_failure(place: Place) -> None:
    async with place.model("stale") as model:
        predictions = [plain(await model.predict(place.kind.pictures(2))) for _ in range(4)]

    assert predictions == [place.kind.sums(2)] * 4


async def test_calls_one_after_the_other_share_a_connection(place: Place) -> None:
    async with place.model("sum") as model:
        await model.predict(place.kind.pictures(1))
        before = last_call(place.url)["connections"]
        for _ in range(5):
            await model.predict(place.kind.pictures(1))

    assert last_call(place.url)["connections"] - before <= 1  # the look at the connections is one itself


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_server_killed_in_a_call_and_started_again_answers_again(kind: Kind) -> None:
    with kind.serving() as (process, port):
        there = Place(kind, f"http://127.0.0.1:{port}")
        async with there.model("sum") as model, there.model("slow-0.5") as slow:
            call = asyncio.create_task(slow.predict(kind.pictures(3)))
            await until_called(there.url, "slow-0.5")
            process.kill()
            process.wait()
            with pytest.raises(ModelUnavailable):
                await call
            with pytest.raises(ModelUnavailable, match="does not answer"):
                await model.predict(kind.pictures(1))
            with kind.serving(port):
                predictions = await model.predict(kind.pictures(2))

    assert plain(predictions) == kind.sums(2)


async def until_called(url: str, name: str) -> None:
    """Wait until a predict call for a model has arrived, and no other since."""
    deadline = monotonic() + 5
    while monotonic() < deadline:
        if name in (await asyncio.to_thread(last_call, url)).get("path", ""):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"no call for {name}")


async def test_a_call_that_is_given_up_leaves_the_client_usable(place: Place) -> None:
    async with place.model("slow-0.2") as slow:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await slow.predict(place.kind.pictures(1))
        predictions = await slow.predict(place.kind.pictures(2))

    assert plain(predictions) == place.kind.sums(2)


async def test_proxies_of_the_environment_are_not_used(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with place.model("sum") as model:
        predictions = await model.predict(place.kind.pictures(2))

    assert plain(predictions) == place.kind.sums(2)
