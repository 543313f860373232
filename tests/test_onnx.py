"""A graph in ONNX Runtime says itself what it takes, and is refused at the start where it cannot serve."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from batch_sizes import BatchSizes
from batching import BatchEstimate
from breaker import CircuitBreaker
from config import Settings
from decoding import Decoder, Threads
from errors import StartError
from inference import Inference
from inputs import ModelInput
from metrics import Metrics
from model_client import ModelClient, open_model
from records import ClaimedJob, tensor_payload
from tests.graphs import FLOAT, INT64, STRING, UINT8, Dims, node, tensor, write_classes, write_graph, write_sum
from tests.pictures import FORMATS, MAX_PIXELS
from tests.stack import ROOT

Open = Callable[..., ModelClient]
PICTURE: Dims = ["n", 4, 6, 3]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("MICROBATCH_", "REDIS_URL")):
            monkeypatch.delenv(name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Open a file as a model, and close it in the end."""
    models: list[ModelClient] = []

    def opening(path: Path, **settings: Any) -> ModelClient:
        models.append(open_model(Settings(model=f"onnx:{path}", **settings)))
        return models[-1]

    yield opening
    for model in models:
        await model.close()


def plain(predictions: object) -> Any:
    """Return predictions as clients see them."""
    return orjson.loads(orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))


def counted(*shape: int, dtype: str = "uint8") -> NDArray[Any]:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def write_two_outputs(path: Path) -> None:
    write_graph(
        path,
        [node("Identity", ["x"], "same"), node("ReduceMax", ["x"], "most", axes=[1], keepdims=0)],
        inputs=[tensor("x", FLOAT, ["n", 3])],
        outputs=[tensor("same", FLOAT, ["n", 3]), tensor("most", FLOAT, ["n"])],
    )


# What it takes


@pytest.mark.parametrize(
    ("graph", "settings", "takes"),
    [
        ((PICTURE, FLOAT), {}, ModelInput((4, 6, 3))),
        ((PICTURE, UINT8), {"fit": "crop"}, ModelInput((4, 6, 3), fit="crop")),
        (([None, 3, 4, 6], FLOAT), {"input_layout": "nchw"}, ModelInput((4, 6, 3))),
        ((["n", 3, None, None], FLOAT), {"input_layout": "nchw", "input_shape": (8, 9, 3)}, ModelInput((8, 9, 3))),
        ((["n", 5, 2, 2], FLOAT), {}, ModelInput((5, 2, 2), "float32")),
        ((["n", 5, 2, 2], INT64), {}, ModelInput((5, 2, 2), "int64")),
        ((None, FLOAT), {"input_shape": (4, 6, 3)}, ModelInput((4, 6, 3))),
    ],
)
async def test_the_input_is_learnt_from_the_graph(
    opened: Open, path: Path, graph: tuple[Dims, int], settings: dict[str, Any], takes: ModelInput
) -> None:
    model = opened(write_sum(path, *graph), **settings)
    batch = counted(2, *takes.shape, dtype=takes.dtype)

    await model.warm_up()
    predictions = await model.predict(batch)

    assert model.takes == takes
    assert plain(predictions) == [image.sum().item() for image in batch]


async def test_images_are_scaled_and_turned_to_channels_first(opened: Open, path: Path) -> None:
    # given: a graph that shows the first channel's first row
    write_graph(
        path,
        [node("Slice", ["x", "first", "end", "axes"], "corner")],
        inputs=[tensor("x", FLOAT, ["n", 3, 2, 2])],
        outputs=[tensor("corner", FLOAT, ["n", 1, 1, 2])],
        constants={"first": np.array([0, 0]), "end": np.array([1, 1]), "axes": np.array([1, 2])},
    )
    model = opened(path, input_layout="nchw", input_mean=(1.0, 0.0, 0.0), input_std=(2.0,))

    (shown,) = plain(await model.predict(counted(1, 2, 2, 3)))

    assert shown == [[[(0 - 1) / 2, (3 - 1) / 2]]]


@pytest.mark.parametrize(
    ("graph", "settings", "says"),
    [
        (([1, 4, 6, 3], FLOAT), {}, r"takes \[1, 4, 6, 3\], .* or set MICROBATCH_ALLOWED_BATCH_SIZES=1"),
        (([8, 4, 6, 3], FLOAT), {"allowed_batch_sizes": (4, 8)}, "set MICROBATCH_ALLOWED_BATCH_SIZES=8"),
        ((["n", None, 6, 3], FLOAT), {}, "MICROBATCH_INPUT_SHAPE=: is needed"),
        ((PICTURE, FLOAT), {"input_shape": (4, 5, 3)}, "MICROBATCH_INPUT_SHAPE=4,5,3: does not fit"),
        ((PICTURE, FLOAT), {"model_dtype": "float16"}, "MICROBATCH_MODEL_DTYPE=float16: does not fit"),
        ((PICTURE, FLOAT), {"accepts": "encoded"}, "MICROBATCH_ACCEPTS=encoded: does not fit"),
        ((PICTURE, STRING), {}, r"takes tensor\(string\), which this service does not send"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_at_the_start(
    opened: Open, path: Path, graph: tuple[Dims, int], settings: dict[str, Any], says: str
) -> None:
    write_graph(
        path,
        [node("Identity", ["image"], "same")],
        inputs=[tensor("image", graph[1], graph[0])],
        outputs=[tensor("same", graph[1], graph[0])],
    )

    with pytest.raises(StartError, match=says) as caught:
        opened(path, **settings)

    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("names", [("left", "right"), ()])
def test_a_graph_of_no_or_two_inputs_is_refused_with_what_was_found(
    opened: Open, path: Path, names: tuple[str, ...]
) -> None:
    write_graph(
        path,
        [node("Add", names or ("one", "one"), "sum")],
        inputs=[tensor(name, FLOAT, ["n", 3]) for name in names],
        outputs=[tensor("sum", FLOAT, None)],
        constants={"one": np.ones(3, np.float32)},
    )

    with pytest.raises(StartError, match=f"must have one input, it has {len(names)}: ") as caught:
        opened(path)

    assert all(name in str(caught.value) for name in names)


async def test_an_input_with_a_value_of_its_own_is_not_asked_for(opened: Open, path: Path) -> None:
    write_graph(
        path,
        [node("Add", ["x", "offset"], "sum")],
        inputs=[tensor("x", FLOAT, ["n", 2]), tensor("offset", FLOAT, [2])],
        outputs=[tensor("sum", FLOAT, ["n", 2])],
        constants={"offset": np.array([1, 2], np.float32)},
    )

    predictions = await opened(path).predict(np.zeros((1, 2), np.float32))

    assert plain(predictions) == [[1.0, 2.0]]


@pytest.mark.parametrize("size", [1, 4])
async def test_a_graph_of_one_batch_size_serves_where_that_is_the_one_allowed(
    opened: Open, path: Path, size: int
) -> None:
    model = opened(write_sum(path, [size, 4, 6, 3]), allowed_batch_sizes=(size,))
    batch = counted(size, 4, 6, 3)

    await model.warm_up((size,))
    predictions = await model.predict(batch)

    assert plain(predictions) == [image.sum().item() for image in batch]


async def test_a_batch_of_one_deep_inside_the_graph_stops_the_start(opened: Open, path: Path) -> None:
    write_graph(
        path,
        [node("Reshape", ["x", "flat"], "row")],
        inputs=[tensor("x", FLOAT, ["n", 3])],
        outputs=[tensor("row", FLOAT, None)],
        constants={"flat": np.array([1, -1])},
    )
    model = opened(path)

    with pytest.raises(StartError, match=r"has shape \(1, 6\), not one row an image"):
        await model.warm_up()


# What it answers


async def test_several_outputs_become_an_object_by_their_names(opened: Open, path: Path) -> None:
    write_two_outputs(path)

    predictions = await opened(path).predict(np.array([[1, 2, 3], [6, 5, 4]], np.float32))

    assert plain(predictions) == [{"same": [1, 2, 3], "most": 3}, {"same": [6, 5, 4], "most": 6}]


async def test_text_is_answered_as_text(opened: Open, path: Path) -> None:
    write_graph(
        path,
        [node("Cast", ["x"], "text", to=STRING)],
        inputs=[tensor("x", INT64, ["n", 2])],
        outputs=[tensor("text", STRING, ["n", 2])],
    )

    predictions = await opened(path).predict(np.array([[1, 2]]))

    assert plain(predictions) == [["1", "2"]]


@pytest.mark.parametrize(
    ("settings", "top"),
    [
        ({"top_k": 2}, [(2, 0.75), (0, 0.125)]),
        ({"top_k": 9}, [(2, 0.75), (0, 0.125), (1, 0.0625)]),
        ({"labels": "cat\nhaystack\ndog\n"}, [("dog", 0.75), ("cat", 0.125), ("haystack", 0.0625)]),
        ({"labels": "cat\r\nhaystack\r\ndog", "top_k": 1}, [("dog", 0.75)]),
    ],
)
async def test_scores_become_the_best_classes(
    opened: Open, path: Path, settings: dict[str, Any], top: list[tuple[object, float]]
) -> None:
    if "labels" in settings:
        file = path.with_name("labels.txt")
        file.write_bytes(settings["labels"].encode())
        settings = settings | {"labels": str(file)}
    model = opened(write_classes(path, 3), **settings)

    await model.warm_up()
    (prediction,) = plain(await model.predict(np.array([[[0.125, 0.0625, 0.75]]], np.float32)))

    named = [{"label": label, "score": score} for label, score in top]
    assert prediction == {**named[0], "top": named}


async def test_the_first_of_several_outputs_is_ranked(opened: Open, path: Path) -> None:
    write_two_outputs(path)

    (prediction,) = plain(await opened(path, top_k=1).predict(np.array([[1, 3, 2]], np.float32)))

    assert prediction == {"label": 1, "score": 3.0, "top": [{"label": 1, "score": 3.0}]}


async def test_labels_more_or_fewer_than_classes_stop_the_start(opened: Open, path: Path) -> None:
    file = path.with_name("labels.txt")
    file.write_text("cat\ndog\n")
    model = opened(write_classes(path, 3), labels=str(file))

    with pytest.raises(StartError, match="MICROBATCH_LABELS: names 2 classes, the model scores 3"):
        await model.warm_up()


async def test_scores_that_are_no_rows_of_classes_stop_the_start(opened: Open, path: Path) -> None:
    model = opened(write_sum(path, PICTURE), top_k=2)

    with pytest.raises(StartError, match="needs scores of shape"):
        await model.warm_up()


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), (b"", "is empty"), (b"\xff\xfe", "no UTF-8")])
def test_labels_that_cannot_be_read_are_refused(opened: Open, path: Path, content: bytes | None, says: str) -> None:
    file = path.with_name("labels.txt")
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(StartError, match=f"MICROBATCH_LABELS={file}: .*{says}"):
        opened(write_classes(path, 3), labels=str(file))


# What goes wrong


def test_a_file_that_is_not_there_is_refused(opened: Open, path: Path) -> None:
    with pytest.raises(StartError, match=f"MICROBATCH_MODEL=onnx:{path}: there is no such file"):
        opened(path)


@pytest.mark.parametrize("content", [b"", b"no graph", None], ids=["empty", "text", "cut short"])
def test_a_broken_file_is_refused_in_one_line(opened: Open, path: Path, content: bytes | None) -> None:
    path.write_bytes(write_sum(path, PICTURE).read_bytes()[:-40] if content is None else content)

    with pytest.raises(StartError, match="cannot be loaded") as caught:
        opened(path)

    assert len(str(caught.value).splitlines()) == 1


def test_without_onnx_runtime_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.delitem(sys.modules, "models.onnx_runtime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(StartError, match=r"pip install -r requirements-onnx\.txt"):
        open_model(Settings(model=f"onnx:{path}"))


def test_other_models_do_not_load_onnx_runtime() -> None:
    look = "import sys, config, model_client as m; m.open_model(config.Settings()); print('onnxruntime' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert said == "False\n"


async def test_an_image_that_the_graph_fails_on_fails_alone(opened: Open, path: Path) -> None:
    # given: a graph that looks a number up in a table of eight
    write_graph(
        path,
        [node("Gather", ["table", "x"], "found")],
        inputs=[tensor("x", INT64, ["n", 1])],
        outputs=[tensor("found", FLOAT, ["n", 1])],
        constants={"table": np.arange(8, dtype=np.float32)},
    )
    threads = Threads(1)
    decoder = Decoder(threads, formats=FORMATS, max_pixels=MAX_PIXELS)
    inference = Inference(
        opened(path),
        decoder,
        model_timeout_s=5,
        estimate=BatchEstimate(cap_s=5),
        sizes=BatchSizes(()),
        breaker=CircuitBreaker(),
        worker_id="w",
        metrics=Metrics(),
    )

    # when
    jobs = {str(uuid4()): number for number in (0, 1, 2, 99, 4)}
    claim = [
        ClaimedJob(uuid, "run", 30.0, 0.0, "api", "", tensor_payload(uuid, np.array([number])))
        for uuid, number in jobs.items()
    ]
    settled = [one async for some in inference.run(claim, "idle") for one in some]
    threads.close()

    # then
    kinds = {jobs[one.uuid]: one.kind for one in settled}
    assert kinds == {0: "ok", 1: "ok", 2: "ok", 4: "ok", 99: "error"}
