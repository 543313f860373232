"""The TF-Serving client against a real process over real HTTP."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from config import load_settings
from errors import ModelFailed, ModelUnavailable
from inputs import ModelInput
from logs import JsonFormatter
from model_client import open_model
from models.scaling import Scaling
from tests.model_server import last_call
from tests.tf_serving_client import (
    ENCODED,
    LABELLED,
    PAIR,
    PICTURE,
    opened,
    packed,
    pictures,
    serving,
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run one model server for this file."""
    with serving() as (_, port):
        yield f"http://127.0.0.1:{port}"


# What is sent


async def test_a_batch_is_predicted_in_one_call_and_in_order(url: str) -> None:
    async with opened(url, "sum") as model:
        predictions = await model.predict(pictures(3))

    assert predictions == [0.0, 48.0, 96.0]
    assert last_call(url)["path"] == "/v1/models/sum:predict"
    assert len(json.loads(last_call(url)["body"])["instances"]) == 3


async def test_encoded_images_travel_as_base64(url: str) -> None:
    async with opened(url, "encoded", ENCODED) as model:
        predictions = await model.predict(packed(b"\xff\xd8\xff", b"", b"\x00" * 1000))

    assert predictions == [{"bytes": 3}, {"bytes": 0}, {"bytes": 1000}]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint64"])
async def test_integers_are_never_sent_as_floats(url: str, dtype: str) -> None:
    batch = np.full((2, 4, 4), 2, dtype)

    async with opened(url, "labels", ModelInput(shape=(4, 4), dtype=dtype)) as model:
        predictions = await model.predict(batch)

    assert predictions == [2, 2]
    assert "." not in last_call(url)["body"]


async def test_floats_for_an_integer_input_are_refused_by_the_server(url: str) -> None:
    async with opened(url, "labels", ModelInput(shape=(4, 4), dtype="float32")) as model:
        with pytest.raises(ModelFailed):
            await model.predict(np.ones((1, 4, 4), np.float32))


async def test_booleans_are_sent_as_true_and_false(url: str) -> None:
    async with opened(url, "mask", ModelInput(shape=(4, 4), dtype="bool")) as model:
        predictions = await model.predict(np.eye(4, dtype=bool)[np.newaxis])

    assert predictions == [4]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", ">f4", ">f8"])
async def test_floats_of_every_width_and_byte_order_arrive(url: str, dtype: str) -> None:
    async with opened(url, "sum", ModelInput(shape=(4, 4, 3), dtype=dtype)) as model:
        predictions = await model.predict(pictures(2).astype(dtype))

    assert predictions == [0.0, 48.0]


async def test_a_batch_that_is_not_contiguous_arrives_whole(url: str) -> None:
    batch = np.asfortranarray(np.arange(96).reshape(2, 4, 4, 3))[::-1]

    async with opened(url, "sum") as model:
        predictions = await model.predict(batch)

    assert predictions == [float(row.sum()) for row in batch]


async def test_scaling_is_applied_once_a_batch(url: str) -> None:
    scaling = Scaling(scale=0.5, mean=(1.0,), layout="nchw")
    batch = np.full((2, 4, 3, 4), 4, np.uint8)

    async with opened(url, "sum", ModelInput(shape=(4, 3, 4)), scaling=scaling) as model:
        predictions = await model.predict(batch)

    assert predictions == [48.0, 48.0]
    sent = np.array(json.loads(last_call(url)["body"])["instances"])
    assert sent.shape == (2, 4, 4, 3)


async def test_numbers_that_are_not_finite_reach_the_model_as_they_are(url: str) -> None:
    batch = np.array([[1, math.nan], [math.inf, 1], [-math.inf, 1], [1, 2]], np.float32)

    async with opened(url, "two_outputs", PAIR) as model:
        predictions: Any = await model.predict(batch)

    assert math.isnan(predictions[0]["total"])
    assert [row["total"] for row in predictions[1:]] == [math.inf, -math.inf, 3.0]
    assert np.array_equal([row["parts"] for row in predictions], batch, equal_nan=True)


async def test_name_and_version_become_the_path(url: str) -> None:
    async with opened(url, "a b/c", version=3) as model:
        await model.warm_up()
        predictions = await model.predict(pictures(1))

    assert predictions == [0.0]
    assert last_call(url)["path"] == "/v1/models/a%20b%2Fc/versions/3:predict"


async def test_the_signature_is_named_in_the_call(url: str) -> None:
    async with opened(url, "sum", signature="other") as model:
        await model.predict(pictures(1))

    assert json.loads(last_call(url)["body"])["signature_name"] == "other"


@pytest.mark.parametrize(
    ("served", "sent"),
    [
        ({}, {"instances": [[0, 1], [2, 3]]}),
        ({"input_name": "input"}, {"instances": [{"input": [0, 1]}, {"input": [2, 3]}]}),
        ({"columnar": True}, {"inputs": [[0, 1], [2, 3]]}),
        ({"columnar": True, "input_name": "input"}, {"inputs": {"input": [[0, 1], [2, 3]]}}),
    ],
)
async def test_rows_and_columns_bare_and_named_are_answered_alike(
    url: str, served: dict[str, Any], sent: dict[str, Any]
) -> None:
    async with opened(url, "two_outputs", PAIR, **served) as model:
        predictions = await model.predict(np.arange(4, dtype="float32").reshape(2, 2))

    assert json.loads(last_call(url)["body"]) == {"signature_name": "serving_default"} | sent
    assert predictions == [{"total": 1.0, "parts": [0.0, 1.0]}, {"total": 5.0, "parts": [2.0, 3.0]}]


@pytest.mark.parametrize("served", [{}, {"columnar": True}, {"input_name": "input"}])
async def test_binary_inputs_and_outputs_travel_as_base64(url: str, served: dict[str, Any]) -> None:
    async with opened(url, "picture_bytes", ENCODED, **served) as model:
        predictions = await model.predict(packed(b"abc", b"\xff\x00"))

    assert predictions == [{"b64": "Y2Jh"}, {"b64": "AP8="}]


async def test_only_large_bodies_are_compressed_and_only_where_told(url: str) -> None:
    headers = []
    for compressed, count in ((True, 8), (True, 1), (False, 8)):
        takes = ModelInput((64, 64, 3))
        async with opened(url, "open", takes, compressed=compressed) as model:
            predictions = await model.predict(np.ones((count, *takes.shape), np.uint8))
        headers.append(last_call(url)["headers"].get("Content-Encoding"))

        assert predictions == [64 * 64 * 3.0] * count

    assert headers == ["gzip", None, None]


@pytest.mark.parametrize(("label", "path"), [("stable", "labels/stable"), (None, "versions/3")])
async def test_a_label_names_a_version(url: str, label: str | None, path: str) -> None:
    async with opened(url, "sum", label=label, version=None if label else 3) as model:
        await model.warm_up()

    assert last_call(url)["path"] == f"/v1/models/sum/{path}:predict"


@pytest.mark.parametrize(("label", "said"), [("next", "label next: version 4 is LOADING"), ("a b/c", "label a b/c: ")])
async def test_a_label_of_no_version_that_is_there_is_waited_for(url: str, label: str, said: str) -> None:
    async with opened(url, "sum", label=label) as model:
        with pytest.raises(ModelUnavailable, match=f"waiting for the model sum {said}"):
            await model.warm_up()


# What comes back


async def test_several_outputs_are_one_object_a_row(url: str) -> None:
    async with opened(url, "two_outputs", PAIR) as model:
        predictions = await model.predict(np.array([[1, 2]], np.float32))

    assert predictions == [{"total": 3.0, "parts": [1.0, 2.0]}]


async def test_nan_and_infinity_in_an_answer_are_read(url: str) -> None:
    async with opened(url, "nan", PAIR) as model:
        predictions: Any = await model.predict(np.zeros((1, 2), np.float32))

    assert math.isnan(predictions[0][0])
    assert predictions[0][1:] == [math.inf, -math.inf]


async def test_the_log_holds_neither_a_long_answer_nor_values_of_the_request(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "models.server")
    async with opened(url, "fail-500") as model, opened(url, "labels", LABELLED) as labels:
        with pytest.raises(ModelFailed):
            await model.predict(pictures(1))
        with pytest.raises(ModelFailed):
            await labels.predict(np.full((1, 4, 4), 7.125, np.float32))

    lines = JsonFormatter({}).format
    records = [lines(record) for record in caplog.records if record.name == "models.server"]
    assert len(records) == 2
    assert all(len(record) < 600 and "\n" not in record and "7.125" not in record for record in records)


@pytest.mark.parametrize("name", ["few", "garbage", "html-200"])
async def test_an_answer_that_makes_no_sense_is_the_servers_fault(url: str, name: str) -> None:
    async with opened(url, name) as model:
        with pytest.raises(ModelUnavailable, match="no sense"):
            await model.predict(pictures(2))


async def test_a_batch_over_the_servers_limit_is_refused_so_that_it_is_split(url: str) -> None:
    async with opened(url, "sum") as model:
        with pytest.raises(ModelFailed):
            await model.predict(pictures(65))
        predictions = await model.predict(pictures(64))

    assert len(predictions) == 64


# From the settings


async def test_the_settings_open_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MICROBATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MICROBATCH_MODEL", "tf-serving")
    monkeypatch.setenv("MICROBATCH_TF_SERVING_URL", url)
    monkeypatch.setenv("MICROBATCH_TF_SERVING_NAME", "sum")
    monkeypatch.setenv("MICROBATCH_TF_SERVING_LABEL", "stable")
    monkeypatch.setenv("MICROBATCH_TF_SERVING_INPUT", "input")
    monkeypatch.setenv("MICROBATCH_TF_SERVING_FORMAT", "columnar")
    monkeypatch.setenv("MICROBATCH_TF_SERVING_GZIP", "true")
    monkeypatch.setenv("MICROBATCH_INPUT_SCALE", "0.5")

    model = open_model(load_settings())
    await model.warm_up()
    predictions = await model.predict(pictures(2))
    await model.close()

    assert predictions == [0.0, 24.0]
    assert last_call(url)["path"] == "/v1/models/sum/labels/stable:predict"
    assert json.loads(last_call(url)["body"])["inputs"]["input"][1][0][0] == [0.5, 0.5, 0.5]
    assert model.takes == PICTURE
    assert not model.in_process
