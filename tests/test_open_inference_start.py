"""The Open Inference client waits for its model, learns what it takes, and refuses to start with one that is unfit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from errors import ModelUnavailable, StartError
from inputs import ModelInput
from models.scaling import Scaling
from tests.model_server import last_call
from tests.open_inference_client import cold, files, pictures, plain, sent, serving, warm
from tests.tf_serving_client import closed_port

PICTURE = ModelInput(shape=(4, 4, 3))
ENCODED = ModelInput(shape=(), accepts="encoded")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run one model server for this file."""
    with serving() as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("style", ["", "/kserve", "/bare"])
async def test_a_model_is_ready_by_status_whatever_the_body_and_waited_for_until_then(url: str, style: str) -> None:
    async with cold(url + style, "loading-2") as model:
        for _ in range(2):
            with pytest.raises(ModelUnavailable, match="waiting for the model loading-2: "):
                await model.warm_up()
        await model.warm_up()


@pytest.mark.parametrize(
    ("style", "name", "version"),
    [("", "nothing", None), ("", "sum", "9"), ("", "sum", "a/b"), ("/kserve", "nothing", None), ("/bare", "sum", "9")],
)
async def test_a_model_that_is_not_known_yet_is_waited_for(
    url: str, style: str, name: str, version: str | None
) -> None:
    async with cold(url + style, name, version=version) as model:
        with pytest.raises(ModelUnavailable, match=f"waiting for the model {name}"):
            await model.warm_up()


async def test_a_server_without_versions_stops_the_start_where_one_is_set(url: str) -> None:
    async with cold(f"{url}/kserve", "sum", version="3") as model:
        with pytest.raises(StartError, match=r"sum version 3 is not to be had: .* 501: Model versioning not supported"):
            await model.warm_up()


@pytest.mark.parametrize("name", ["fail-503", "fail-500", "html-502", "garbage", "drop", "few", "bad-header"])
async def test_warm_up_waits_for_a_server_that_cannot_predict_yet(url: str, name: str) -> None:
    async with cold(url, f"at-once-{name}") as model:
        with pytest.raises(ModelUnavailable):
            await model.warm_up()


async def test_warm_up_waits_for_a_server_that_is_not_there_or_speaks_otherwise(url: str) -> None:
    async with cold(f"http://127.0.0.1:{closed_port()}", "sum") as away:
        with pytest.raises(ModelUnavailable):
            await away.warm_up()
    async with cold(f"{url}/control/last?", "sum") as other:
        with pytest.raises(ModelUnavailable):
            await other.warm_up()


@pytest.mark.parametrize(
    ("style", "name", "said"), [("/odd", "sum", "no sense"), ("", "odd", "no sense"), ("", "late", "busy or loading")]
)
async def test_metadata_that_make_no_sense_or_come_late_are_waited_for(
    url: str, style: str, name: str, said: str
) -> None:
    async with cold(url + style, name) as model:
        with pytest.raises(ModelUnavailable, match=said):
            await model.warm_up()


@pytest.mark.parametrize(
    ("name", "takes"),
    [
        ("sum", PICTURE),
        ("labels", ModelInput((4, 4))),
        ("two_outputs", ModelInput((2,), "float32")),
        ("echo-INT64", ModelInput((2,), "int64")),
        ("half", ModelInput((4, 4))),
        ("encoded", ENCODED),
        ("encoded-column", ENCODED),
    ],
)
async def test_what_a_model_takes_is_learnt_from_its_metadata(url: str, name: str, takes: ModelInput) -> None:
    async with warm(url, name) as model:
        assert model.takes == takes


async def test_warm_up_predicts_a_blank_tensor_and_then_the_largest_batch(url: str) -> None:
    async with warm(url, "sum", max_batch_size=8):
        assert sent(url)["inputs"][0]["shape"] == [8, 4, 4, 3]
    async with warm(url, "sum", max_batch_size=1):
        assert sent(url)["inputs"][0]["shape"] == [1, 4, 4, 3]


async def test_warm_up_for_encoded_images_predicts_nothing(url: str) -> None:
    async with warm(url, "sum"), warm(url, "encoded"):
        assert last_call(url)["path"] == "/v2/models/sum/infer"


@pytest.mark.parametrize(
    ("style", "binary", "raw"),
    [
        ("", "auto", True),
        ("", "off", False),
        ("/kserve", "auto", False),
        ("/kserve", "on", True),
        ("/bare", "auto", False),
    ],
)
async def test_raw_bytes_are_sent_where_the_server_lists_them_or_the_settings_say_so(
    url: str, style: str, binary: str, *, raw: bool
) -> None:
    async with warm(url + style, "sum", binary=binary) as model:
        predictions = await model.predict(pictures(2))

    assert plain(predictions) == [48, 96]
    assert ("data" not in sent(url)["inputs"][0]) == raw
    assert ("Inference-Header-Content-Length" in last_call(url)["headers"]) == raw
    assert ("binary_data_output" in sent(url).get("parameters", {})) == raw


@pytest.mark.parametrize(
    ("name", "takes", "served", "said"),
    [
        (
            "sum",
            ModelInput((5, 5, 3)),
            {},
            r"INPUT_SHAPE=5,5,3: does not fit .* input is x, float32 \[4, 4, 3\] after the",
        ),
        ("labels", ModelInput((4, 4), "float32"), {}, "INPUT_DTYPE=float32: does not fit .* int32"),
        ("bfloat", None, {}, "takes BF16, which this service does not send"),
        ("half", None, {"binary": "off"}, "MICROBATCH_INFERENCE_BINARY=off: the model half takes FP16"),
        ("two_inputs", None, {}, r"one input, .*INPUT must name it; it takes left \(FP32 \[-1, 2\]\), right \(FP32"),
        ("two_inputs", None, {"input_name": "left"}, "answered 400: expected 2 inputs but got 1"),
        ("sum", None, {"input_name": "image"}, r"must take an input image; it takes x \(FP32 \[-1, 4, 4, 3\]\)"),
        ("fixed-4", None, {}, r"takes \[4, 4, 4, 3\], but the first axis must be open.*ALLOWED_BATCH_SIZES=4"),
        ("fixed", None, {}, r"takes \[1, 4, 4, 3\], but the first axis must be open.*ALLOWED_BATCH_SIZES=1"),
        ("encoded", PICTURE, {}, "ACCEPTS=tensor: does not fit .* input is x, bytes"),
        ("encoded-pairs", None, {}, r"takes \[-1, 2\] texts, but one image file a row is sent"),
        ("sum", ENCODED, {}, "ACCEPTS=encoded: does not fit"),
        ("open", None, {}, "MICROBATCH_INPUT_SHAPE=: is needed"),
        ("untold", PICTURE, {}, "MICROBATCH_INFERENCE_INPUT=: is needed, the model untold does not say"),
        ("undeclared", PICTURE, {}, "MICROBATCH_INFERENCE_INPUT=: is needed, the model undeclared does not say"),
        ("untold", None, {"input_name": "x"}, "MICROBATCH_INPUT_SHAPE=: "),
        ("untold", PICTURE, {"input_name": "x"}, "answered 400: inference input data-type is 'UINT8'"),
        ("untold", ModelInput((4,), "longdouble"), {"input_name": "x"}, "MODEL_DTYPE=(float128|longdouble): "),
    ],
)
async def test_a_model_that_takes_something_else_stops_the_start_and_says_what_was_expected_and_found(
    url: str, name: str, takes: ModelInput | None, served: dict[str, Any], said: str
) -> None:
    async with cold(url, name, takes, **served) as model:
        with pytest.raises(StartError, match=said):
            await model.warm_up()


async def test_half_floats_are_refused_where_the_server_lists_no_raw_bytes(url: str) -> None:
    async with cold(f"{url}/kserve", "half") as asking, cold(f"{url}/kserve", "half", binary="on") as told:
        with pytest.raises(StartError, match="BINARY=auto: the model half takes FP16"):
            await asking.warm_up()
        await told.warm_up()
        predictions = await told.predict(np.full((1, 4, 4), 2, np.uint8))

    assert plain(predictions) == [32]


async def test_a_batch_that_the_server_does_not_take_stops_the_start(url: str) -> None:
    async with cold(url, "sum", max_batch_size=64) as fitting, cold(url, "sum", max_batch_size=65) as larger:
        await fitting.warm_up()
        with pytest.raises(StartError, match=r"MICROBATCH_MAX_BATCH_SIZE=65: .*batch-size must be <= 64"):
            await larger.warm_up()


async def test_a_model_for_one_size_of_batch_starts_where_no_other_is_sent(url: str) -> None:
    async with cold(url, "fixed", max_batch_size=1) as single, cold(url, "fixed-4", max_batch_size=8) as four:
        await single.warm_up()
        await four.warm_up((4,))
        with pytest.raises(StartError, match="the first axis must be open"):
            await four.warm_up((2, 4))
        predictions = await four.predict(pictures(4))

    assert plain(predictions) == [48, 96, 144, 192]


async def test_one_of_several_inputs_may_be_named_where_the_others_are_optional(url: str) -> None:
    async with warm(url, "optional", input_name="left") as model:
        predictions = await model.predict(np.ones((1, 2), np.float32))

    assert plain(predictions) == [2]
    assert [one["name"] for one in sent(url)["inputs"]] == ["left"]


@pytest.mark.parametrize("name", ["untold", "undeclared"])
async def test_where_the_server_does_not_say_what_the_model_takes_the_settings_do(url: str, name: str) -> None:
    async with warm(url, name, PICTURE, input_name="x", scaling=Scaling(dtype="float32")) as model:
        predictions = await model.predict(pictures(1))

    assert model.takes == PICTURE
    assert plain(predictions) == [48]


async def test_where_the_metadata_leave_the_shape_open_the_settings_say_it(url: str) -> None:
    async with warm(url, "open", PICTURE) as model:
        predictions = await model.predict(pictures(2))

    assert plain(predictions) == [48, 96]


async def test_files_are_sent_in_the_shape_that_the_model_declares(url: str) -> None:
    for name, shape in (("encoded", [3]), ("encoded-column", [3, 1])):
        async with warm(url, name) as model:
            predictions = await model.predict(files(b"\xff\xd8\xff", b"", b"\0" * 1000))

        assert plain(predictions) == [3, 0, 1000]
        assert sent(url)["inputs"][0]["shape"] == shape


@pytest.mark.parametrize("address", ["http://", "http://host:port", "http://[::1"])
async def test_an_address_that_cannot_be_one_stops_the_start(address: str) -> None:
    with pytest.raises(StartError, match="MICROBATCH_INFERENCE_URL"):
        async with cold(address, "sum"):
            pass
