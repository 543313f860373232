"""The Open Inference client against a real process over real HTTP."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from config import load_settings
from errors import ModelUnavailable
from inputs import ModelInput
from model_client import open_model
from models.open_inference import INLINE_BYTES
from models.scaling import Scaling
from tests.model_server import last_call
from tests.open_inference_client import files, pictures, plain, sent, serving, warm
from tests.open_inference_contract import DTYPES

BOTH = pytest.mark.parametrize("binary", ["on", "off"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run one model server for this file."""
    with serving() as (_, port):
        yield f"http://127.0.0.1:{port}"


# What is sent


@BOTH
@pytest.mark.parametrize("style", ["", "/kserve"])
async def test_a_batch_is_predicted_in_one_call_and_in_order(url: str, style: str, binary: str) -> None:
    async with warm(url + style, "sum", binary=binary) as model:
        predictions = await model.predict(pictures(3))

    assert plain(predictions) == [48.0, 96.0, 144.0]
    assert last_call(url)["path"] == f"{style}/v2/models/sum/infer"
    assert [one["shape"] for one in sent(url)["inputs"]] == [[3, 4, 4, 3]]


@pytest.mark.parametrize(
    ("datatype", "binary"), [*((one, "on") for one in DTYPES), *((one, "off") for one in DTYPES if one != "FP16")]
)
async def test_numbers_of_every_datatype_arrive_and_come_back(url: str, datatype: str, binary: str) -> None:
    dtype = np.dtype(DTYPES[datatype])
    batch = np.array([[0, 1], [1, 0]], dtype)
    if dtype.kind in "iu":
        batch[0] = np.iinfo(dtype).min, np.iinfo(dtype).max

    async with warm(url, f"echo-{datatype}", binary=binary) as model:
        predictions = await model.predict(batch)

    assert plain(predictions) == batch.tolist()
    assert sent(url)["inputs"][0]["datatype"] == datatype


@BOTH
@pytest.mark.parametrize("dtype", ["uint8", ">u2", "float16", "float64", ">f4"])
async def test_a_batch_of_another_dtype_or_order_in_memory_arrives_whole(url: str, dtype: str, binary: str) -> None:
    batch = np.asfortranarray(np.arange(96).reshape(2, 4, 4, 3)).astype(dtype)[::-1]

    async with warm(url, "sum", binary=binary) as model:
        predictions = await model.predict(batch)

    assert plain(predictions) == [float(row.sum()) for row in batch.astype(float)]


@BOTH
async def test_scaling_is_applied_once_a_batch(url: str, binary: str) -> None:
    scaling = Scaling(scale=0.5, mean=(1.0,), layout="nchw")
    batch = np.full((2, 4, 3, 4), 4, np.uint8)

    async with warm(url, "sum", ModelInput((4, 3, 4)), scaling=scaling, binary=binary) as model:
        predictions = await model.predict(batch)

    assert plain(predictions) == [48.0, 48.0]
    assert sent(url)["inputs"][0]["shape"] == [2, 4, 4, 3]


@BOTH
async def test_numbers_that_are_not_finite_reach_the_model_as_they_are(url: str, binary: str) -> None:
    batch = np.array([[1, math.nan], [math.inf, 1], [-math.inf, 1], [1, 2]], np.float32)

    async with warm(url, "two_outputs", binary=binary) as model:
        predictions: Any = await model.predict(batch)

    assert math.isnan(predictions[0]["total"])
    assert [float(row["total"]) for row in predictions[1:]] == [math.inf, -math.inf, 3.0]
    assert np.array_equal([row["parts"] for row in predictions], batch, equal_nan=True)


@BOTH
async def test_image_files_arrive_as_they_are(url: str, binary: str) -> None:
    async with warm(url, "encoded", binary=binary) as model:
        predictions = await model.predict(files(b"\xff\xd8\xff", b"", b"\0" * 1000))

    assert plain(predictions) == [3, 0, 1000]


async def test_name_and_version_become_the_path(url: str) -> None:
    async with warm(url, "a b/c", version="3") as model:
        predictions = await model.predict(pictures(1))

    assert plain(predictions) == [48.0]
    assert last_call(url)["path"] == "/v2/models/a%20b%2Fc/versions/3/infer"


async def test_a_batch_too_large_to_be_joined_at_once_arrives_whole(url: str) -> None:
    count = INLINE_BYTES // (224 * 224 * 3) + 2
    batch = np.zeros((count, 224, 224, 3), np.uint8) + np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)

    async with warm(url, "photos") as model:
        predictions: Any = plain(await model.predict(batch))

    assert [row[0] for row in predictions] == list(range(count))


async def test_raw_answers_are_not_to_be_compressed(url: str) -> None:
    async with warm(url, "sum"):
        assert last_call(url)["headers"]["Accept-Encoding"] == "identity"


# What comes back


@BOTH
@pytest.mark.parametrize("style", ["", "/kserve"])
async def test_several_outputs_are_one_object_a_row(url: str, style: str, binary: str) -> None:
    async with warm(url + style, "two_outputs", binary=binary) as model:
        predictions = await model.predict(np.array([[1, 2], [3, 4]], np.float32))

    assert plain(predictions) == [{"total": 3.0, "parts": [1.0, 2.0]}, {"total": 7.0, "parts": [3.0, 4.0]}]


@BOTH
async def test_nan_and_infinity_in_an_answer_are_read(url: str, binary: str) -> None:
    async with warm(url, "nan", binary=binary) as model:
        [row] = await model.predict(np.ones((1, 2), np.float32))

    assert np.array_equal(np.array(row), [math.nan, math.inf, -math.inf], equal_nan=True)


async def test_texts_are_text_where_they_can_be_and_else_base64(url: str) -> None:
    async with warm(url, "backwards") as model:
        predictions = await model.predict(files(b"abc", b"\xff\0"))

    assert plain(predictions) == ["cba", {"b64": "AP8="}]


@BOTH
async def test_rows_of_nothing_are_empty(url: str, binary: str) -> None:
    async with warm(url, "empty", binary=binary) as model:
        predictions = await model.predict(np.ones((2, 2), np.float32))

    assert plain(predictions) == [[], []]


async def test_floats_come_back_as_short_as_they_are(url: str) -> None:
    async with warm(url, "echo-FP32") as model:
        predictions = await model.predict(np.array([[0.1, 0.2]], np.float32))

    assert plain(predictions) == [[0.1, 0.2]]


@BOTH
@pytest.mark.parametrize("name", ["few", "garbage", "html-200"])
async def test_an_answer_that_makes_no_sense_is_the_servers_fault(url: str, name: str, binary: str) -> None:
    async with warm(url, name, binary=binary) as model:
        with pytest.raises(ModelUnavailable, match="no sense"):
            await model.predict(pictures(2))


@pytest.mark.parametrize("name", ["long-header", "bad-header", "surplus", "short"])
async def test_raw_bytes_that_do_not_add_up_are_the_servers_fault(url: str, name: str) -> None:
    async with warm(url, name) as model:
        with pytest.raises(ModelUnavailable, match="no sense"):
            await model.predict(pictures(2))


# From the settings


async def test_the_settings_open_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MICROBATCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MICROBATCH_MODEL", "open-inference")
    monkeypatch.setenv("MICROBATCH_INFERENCE_URL", url)
    monkeypatch.setenv("MICROBATCH_INFERENCE_NAME", "untold")
    monkeypatch.setenv("MICROBATCH_INFERENCE_VERSION", "3")
    monkeypatch.setenv("MICROBATCH_INFERENCE_INPUT", "x")
    monkeypatch.setenv("MICROBATCH_INFERENCE_BINARY", "on")
    monkeypatch.setenv("MICROBATCH_INPUT_SHAPE", "4,4,3")
    monkeypatch.setenv("MICROBATCH_INPUT_SCALE", "0.5")

    model = open_model(load_settings())
    await model.warm_up()
    predictions = await model.predict(pictures(2))
    await model.close()

    assert plain(predictions) == [24.0, 48.0]
    assert last_call(url)["path"] == "/v2/models/untold/versions/3/infer"
    assert sent(url)["inputs"][0]["parameters"] == {"binary_data_size": 384}
    assert model.takes == ModelInput((4, 4, 3))
    assert not model.in_process
