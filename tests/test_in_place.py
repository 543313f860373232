"""A model may write to its batch, keep it and give views of it: each call gets the images as they were sent."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from config import Settings
from model_client import ModelClient
from models.onnx_runtime import open_model as open_onnx
from tests import open_inference_client, own_models, tf_serving_client
from tests.graphs import FLOAT, node, tensor, write_graph
from tests.model_server import last_call
from tests.own_models import RUNS_IN, Open
from tests.runs import Worker, said

opened = own_models.opened

COUNT, BAD = 16, 5
IMAGES = [np.array([10 * number, 7], np.uint8) for number in range(COUNT)]

MODEL = """
import os
import numpy as np

kept = []

class Model:
    input_shape = (2,)

    def predict(self, batch):
        first = batch[:, 0] // 2  # what is right of the pixels as they were sent
        {in_place}
        {failure}
        return first.tolist()
"""
IN_PLACE = {
    "divides": "batch //= 2",
    "clears": "batch[:] = 0",
    "sorts": "batch.sort(axis=0)",
    "keeps it and clears what it kept": "kept.append(batch); [one.fill(3) for one in kept]",
    "gives a view of it": "batch[:, 0] //= 2; first = batch[:, 0]",
}
BAD_HERE = f"{10 * BAD // 2} in first.tolist()"
FAILURES = {
    "raises": f"if {BAD_HERE}: raise ValueError('no such picture')",
    "has no memory": "if len(batch) > 4: raise MemoryError()",
    "gives one too few": f"if {BAD_HERE}: first = first[1:]",
    "ends its process": f"if {BAD_HERE}: os._exit(3)",
}
CASES = [
    (runs_in, failure)
    for runs_in in RUNS_IN
    for failure in FAILURES
    if (runs_in, failure) != ("thread", "ends its process")  # that ends the batcher
]


def right(failure: str) -> list[object]:
    expected: list[object] = [5 * number for number in range(COUNT)]
    if failure != "has no memory":
        expected[BAD] = "model_failed"
    return expected


@pytest.mark.parametrize(("runs_in", "failure"), CASES)
async def test_neighbours_of_a_failure_are_answered_by_the_images_that_were_sent(
    opened: Open, runs_in: str, failure: str
) -> None:
    ways = ["clears"] if failure == "ends its process" else IN_PLACE  # each end takes as long as a start
    for in_place in ways:
        model = opened(MODEL.format(in_place=IN_PLACE[in_place], failure=FAILURES[failure]), runs_in)
        await model.warm_up()
        worker = Worker(model)

        answers = await worker.run(IMAGES)
        worker.close()

        assert [said(one) for one in answers] == right(failure), in_place


@pytest.mark.parametrize("runs_in", RUNS_IN)
async def test_padding_is_of_the_images_that_were_sent(opened: Open, runs_in: str) -> None:
    model = opened(MODEL.format(in_place="batch //= 2", failure=FAILURES["raises"]), runs_in)
    await model.warm_up()
    worker = Worker(model, allowed_batch_sizes=(1, 32))

    answers = await worker.run(IMAGES)
    worker.close()

    assert [said(one) for one in answers] == right("raises")


@pytest.mark.parametrize("runs_in", RUNS_IN)
async def test_image_files_are_the_same_again_after_a_model_has_replaced_them(opened: Open, runs_in: str) -> None:
    model = opened(
        "class Model:\n"
        "    accepts = 'encoded'\n"
        "    def predict(self, batch):\n"
        "        files = list(batch)\n"
        "        assert all(type(file) is bytes for file in files)\n"
        "        batch[:] = b'gone'\n"
        "        if b'bad' in files: raise ValueError('no such picture')\n"
        "        return [file.decode() for file in files]\n",
        runs_in,
    )
    await model.warm_up()
    worker = Worker(model)

    answers = await worker.run([b"a", b"bc", b"bad", b""])
    worker.close()

    assert [said(one) for one in answers] == ["a", "bc", "model_failed", ""]


async def test_an_image_alone_that_is_tried_again_is_sent_as_it_was(opened: Open, tmp_path: Path) -> None:
    """At its first call the process ends after the model has cleared the image."""
    done = str(tmp_path / "done")
    failure = f"if {BAD_HERE} and not os.path.exists({done!r}): open({done!r}, 'w'); os._exit(3)"
    model = opened(MODEL.format(in_place="batch[:] = 0", failure=failure), "process")
    await model.warm_up()
    worker = Worker(model)

    answers = await worker.run(IMAGES[BAD : BAD + 1])
    worker.close()

    assert [said(one) for one in answers] == [5 * BAD]


@pytest.mark.parametrize("runs_in", RUNS_IN)
async def test_a_model_may_write_to_what_is_scaled_too(opened: Open, runs_in: str) -> None:
    model = opened(
        MODEL.format(in_place="batch *= 0", failure=FAILURES["raises"]).replace("// 2", "* 1"),
        runs_in,
        INPUT_SCALE="0.5",
    )
    await model.warm_up()
    worker = Worker(model)

    answers = await worker.run(IMAGES)
    worker.close()

    assert [said(one) for one in answers] == right("raises")


async def test_predictions_that_a_model_writes_to_one_array_each_time_are_not_those_of_the_next_batch(
    opened: Open,
) -> None:
    """The next claim's call runs while the results of this one are written."""
    model = opened(
        "import numpy as np, time\n"
        "out = np.zeros((64, 2), int)\n"
        "class Model:\n"
        "    input_shape = (2,)\n"
        "    calls = 0\n"
        "    def predict(self, batch):\n"
        "        out[: len(batch)] = batch\n"
        "        time.sleep(0.02)\n"
        "        Model.calls += 1\n"
        "        rows = out[: len(batch)]\n"
        "        return [rows, list(rows), [{'row': row} for row in rows]][Model.calls % 3]\n",
        "thread",
    )
    await model.warm_up()
    worker = Worker(model)
    claims = [[np.array([number, place], np.uint8) for place in range(8)] for number in range(8)]

    pairs = [asyncio.gather(*(worker.run(claim) for claim in claims[first : first + 2])) for first in range(0, 8, 2)]
    answers = [answer for pair in pairs for answer in await pair]
    worker.close()

    rows = [[one["row"] if isinstance(one := said(answer), dict) else one for answer in some] for some in answers]
    assert rows == [[image.tolist() for image in claim] for claim in claims]


async def test_a_graph_writes_nothing_into_its_batch(tmp_path: Path) -> None:
    path = write_graph(
        tmp_path / "model.onnx",
        [node("Neg", ["x"], "less"), node("Abs", ["less"], "out")],
        inputs=[tensor("x", FLOAT, ["n", 2])],
        outputs=[tensor("out", FLOAT, ["n", 2])],
    )
    model = open_onnx(Settings(model=f"onnx:{path}"))
    await model.warm_up()

    assert await unchanged(model, np.arange(8, dtype=np.float32).reshape(4, 2))


@pytest.mark.parametrize("kind", [tf_serving_client, open_inference_client], ids=["tf-serving", "open-inference"])
async def test_a_model_server_is_sent_the_same_again_after_a_failure(kind: Any) -> None:
    with kind.serving() as (_, port):
        url = f"http://127.0.0.1:{port}"
        opening = kind.opened if kind is tf_serving_client else kind.warm
        async with opening(url, "sum") as model:
            assert await unchanged(model, kind.pictures(2))
            first = last_call(url)["body"]
            assert await unchanged(model, kind.pictures(2))
            assert json.loads(last_call(url)["body"]) == json.loads(first)


async def unchanged(model: ModelClient, batch: NDArray[Any]) -> bool:
    """Return whether a call leaves its batch as it was; it may be written to."""
    before = batch.copy()
    await model.predict(batch)
    return bool((batch == before).all())
