"""The TF-Serving client waits for its model, learns what it takes, and refuses to start with one that does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from errors import ModelUnavailable, StartError
from inputs import ModelInput
from tests.model_server import last_call
from tests.tf_serving_client import (
    ENCODED,
    LABELLED,
    PAIR,
    PICTURE,
    closed_port,
    opened,
    pictures,
    serving,
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run one model server for this file."""
    with serving() as (_, port):
        yield f"http://127.0.0.1:{port}"


async def test_warm_up_predicts_one_blank_tensor(url: str) -> None:
    async with opened(url, "sum") as model:
        await model.warm_up()

    assert json.loads(last_call(url)["body"])["instances"] == np.zeros((1, 4, 4, 3)).tolist()


async def test_warm_up_predicts_a_batch_of_the_largest_size_last(url: str) -> None:
    async with opened(url, "sum", max_batch_size=8) as model:
        await model.warm_up()

    assert json.loads(last_call(url)["body"])["instances"] == np.zeros((8, 4, 4, 3)).tolist()


async def test_warm_up_for_encoded_images_asks_for_the_status_only(url: str) -> None:
    async with opened(url, "sum") as tensors, opened(url, "encoded", ENCODED) as model:
        await tensors.predict(pictures(1))
        await model.warm_up()

    assert last_call(url)["path"] == "/v1/models/sum:predict"


async def test_a_model_that_loads_is_waited_for(url: str) -> None:
    async with opened(url, "loading-2", version=3) as model:
        for _ in range(2):
            with pytest.raises(ModelUnavailable, match=r"waiting for the model loading-2 version 3: .*LOADING"):
                await model.warm_up()
        await model.warm_up()


async def test_a_version_that_loads_is_waited_for_while_another_is_there(url: str) -> None:
    async with opened(url, "sum", version=4) as model:
        with pytest.raises(ModelUnavailable, match="version 4 is LOADING"):
            await model.warm_up()


@pytest.mark.parametrize(("name", "version"), [("nothing", None), ("sum", 9), ("sum", 0)])
async def test_a_model_that_is_not_known_yet_is_waited_for(url: str, name: str, version: int | None) -> None:
    async with opened(url, name, version=version) as model:
        with pytest.raises(ModelUnavailable, match=f"waiting for the model {name}"):
            await model.warm_up()


@pytest.mark.parametrize("name", ["fail-503", "fail-500", "html-502", "garbage", "drop"])
async def test_warm_up_waits_for_a_server_that_cannot_predict_yet(url: str, name: str) -> None:
    async with opened(url, name) as model:
        with pytest.raises(ModelUnavailable):
            await model.warm_up()


async def test_warm_up_waits_for_a_server_that_is_not_there_or_speaks_otherwise(url: str) -> None:
    async with opened(f"http://127.0.0.1:{closed_port()}", "sum") as away:
        with pytest.raises(ModelUnavailable):
            await away.warm_up()
    async with opened(f"{url}/control/last?", "sum") as other:
        with pytest.raises(ModelUnavailable):
            await other.warm_up()


@pytest.mark.parametrize(
    ("name", "takes", "served", "said"),
    [
        ("sum", ModelInput((5, 5, 3)), {}, r"INPUT_SHAPE=5,5,3: does not fit .* input, float32 \[4, 4, 3\] after the"),
        ("kserve", ModelInput((5, 5, 3)), {}, r"answered 400: input must have the shape \[4, 4, 3\]"),
        ("sum", PICTURE, {"signature": "misspelt"}, "no signature misspelt, but other, serving_default"),
        ("sum", PICTURE, {"input_name": "image"}, r"must take the one input image, it takes input \(DT_FLOAT\)"),
        ("labels", ModelInput((4, 4), dtype="float32"), {}, "INPUT_DTYPE=float32: does not fit .* int32"),
        ("half", ModelInput((4, 4), dtype="float16"), {}, "takes DT_HALF, which this service does not send"),
        ("two_inputs", PAIR, {}, r"must take one input, it takes left \(DT_FLOAT\), right \(DT_FLOAT\)"),
        ("fixed", PICTURE, {"max_batch_size": 2}, r"takes \[1, 4, 4, 3\], but the first axis must be open"),
        ("encoded", PICTURE, {}, "ACCEPTS=tensor: does not fit .* input, bytes"),
        ("sum", ENCODED, {}, "ACCEPTS=encoded: does not fit"),
    ],
)
async def test_a_model_that_takes_something_else_stops_the_start_and_says_what_was_expected_and_found(
    url: str, name: str, takes: ModelInput, served: dict[str, Any], said: str
) -> None:
    async with opened(url, name, takes, **served) as model:
        with pytest.raises(StartError, match=said):
            await model.warm_up()


async def test_a_batch_that_the_server_does_not_take_stops_the_start(url: str) -> None:
    async with opened(url, "sum", max_batch_size=64) as fitting, opened(url, "sum", max_batch_size=65) as larger:
        await fitting.warm_up()
        with pytest.raises(StartError, match=r"MICROBATCH_MAX_BATCH_SIZE=65: .*maximum input batch size 64"):
            await larger.warm_up()


async def test_a_model_for_one_size_of_batch_starts_where_that_is_the_only_one_allowed(url: str) -> None:
    async with opened(url, "fixed", max_batch_size=32) as model:
        with pytest.raises(StartError, match="MICROBATCH_ALLOWED_BATCH_SIZES=1"):
            await model.warm_up()
        with pytest.raises(StartError, match="the first axis must be open"):
            await model.warm_up((1, 2))
        await model.warm_up((1,))


async def test_warm_up_tries_each_size_that_batches_come_in(url: str) -> None:
    async with opened(url, "sum", max_batch_size=32) as model:
        await model.warm_up((2, 3))

    assert json.loads(last_call(url)["body"])["instances"] == np.zeros((3, 4, 4, 3)).tolist()


@pytest.mark.parametrize("version", [None, 3])
@pytest.mark.parametrize(
    ("name", "takes"),
    [("sum", PICTURE), ("labels", LABELLED), ("two_outputs", PAIR), ("encoded", ENCODED), ("mask", LABELLED)],
)
async def test_what_a_model_takes_is_learnt_from_its_metadata(
    url: str, name: str, takes: ModelInput, version: int | None
) -> None:
    async with opened(url, name, None, version=version) as model:
        await model.warm_up()

    assert model.takes == takes


@pytest.mark.parametrize("name", ["open", "any_rank", "kserve"])
async def test_where_the_metadata_leave_the_shape_open_the_settings_say_it(url: str, name: str) -> None:
    async with opened(url, name, None) as asking, opened(url, name) as told:
        with pytest.raises(StartError, match="MICROBATCH_INPUT_SHAPE=:"):
            await asking.warm_up()
        await told.warm_up()
        predictions = await told.predict(pictures(2))

    assert told.takes == PICTURE
    assert predictions == [0.0, 48.0]


async def test_images_stay_small_in_the_queue_and_are_cast_to_what_the_model_computes_with(url: str) -> None:
    async with opened(url, "sum", None) as floats, opened(url, "labels", None) as integers:
        await floats.warm_up()
        await integers.warm_up()
        await floats.predict(pictures(1))
        body = last_call(url)["body"]
        labels = await integers.predict(np.ones((1, 4, 4), np.uint8))

    assert floats.takes.dtype == "uint8"
    assert '"instances":[[[[0.0,' in body
    assert labels == [6]


@pytest.mark.parametrize("address", ["http://", "http://host:port", "http://[::1"])
async def test_an_address_that_cannot_be_one_stops_the_start(address: str) -> None:
    with pytest.raises(StartError, match="MICROBATCH_TF_SERVING_URL"):
        async with opened(address, "sum"):
            pass
