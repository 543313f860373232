"""EfficientNet-Lite0 is made of its weights without running what their file may hold, and knows its pictures."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
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


# The weights' file: tensors refer to storages by their keys, which the pickler writes as persistent ids.


class _Storage:
    def __init__(self, kind: str, key: str, numbers: bytes, length: int) -> None:
        self.kind, self.key, self.numbers, self.length = kind, key, numbers, length


class _Named:
    """Pickled as a bare name of another module."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __reduce__(self) -> str:
        return self.name


class _Call:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call
