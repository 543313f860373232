"""What a model declares and what the settings choose go together, or stop the start with both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from errors import StartError
from inputs import ModelInput
from models.choice import Choice, Declared
from models.scaling import Scaling

NCHW = Scaling(layout="nchw")
SCALED = Scaling(scale=255.0)


@pytest.mark.parametrize(
    ("shape", "dtype", "choice", "takes", "handed"),
    [
        ((224, 224, 3), "float32", {}, ModelInput((224, 224, 3)), "float32"),
        ((3, 224, 224), "float32", {"scaling": NCHW}, ModelInput((224, 224, 3)), "float32"),
        ((3, 8, 8), "float32", {}, ModelInput((3, 8, 8), "float32"), "float32"),
        ((8, 8), "uint8", {"fit": "ink"}, ModelInput((8, 8), fit="ink"), "uint8"),
        ((10,), "float64", {}, ModelInput((10,), "float64"), "float64"),
        ((10,), "float32", {"dtype": "float64"}, ModelInput((10,), "float64"), "float32"),
        ((-1, -1, 3), "float32", {"shape": (32, 48, 3)}, ModelInput((32, 48, 3)), "float32"),
        (None, "int32", {"shape": (4,)}, ModelInput((4,), "int32"), "int32"),
        ((-1, 8, 8), "uint8", {"shape": (8, 8, 3), "scaling": NCHW}, ModelInput((8, 8, 3)), "uint8"),
        ((8,), "int32", {"dtype": "float32", "scaling": SCALED}, ModelInput((8,), "float32"), "int32"),
        ((), "bytes", {}, ModelInput((), accepts="encoded"), None),
    ],
)
def test_the_input_is_learnt_and_images_stay_uint8(
    shape: tuple[int, ...] | None, dtype: str, choice: dict[str, Any], takes: ModelInput, handed: str | None
) -> None:
    learnt, scaling = Choice("named", **choice).learn(Declared("x", shape, dtype))

    assert learnt == takes
    assert scaling.dtype == handed


def test_a_learnt_batch_is_what_the_model_declared() -> None:
    choice = Choice("named", scaling=Scaling(scale=0.5, layout="nchw"))

    takes, scaling = choice.learn(Declared("x", (3, 2, 4), "float16"))
    batch = scaling.apply(np.full((5, *takes.shape), 3, takes.dtype))

    assert batch.shape == (5, 3, 2, 4)
    assert batch.dtype == np.float16
    assert (batch == 1.5).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "choice", "setting"),
    [
        ((8, 8), "uint8", {"shape": (8, 9)}, "INPUT_SHAPE=8,9"),
        ((8, 8), "uint8", {"shape": (8, 8, 1)}, "INPUT_SHAPE=8,8,1"),
        ((-1, 8), "uint8", {}, "INPUT_SHAPE="),
        (None, "uint8", {}, "INPUT_SHAPE="),
        ((), "uint8", {}, "INPUT_SHAPE="),
        ((8, 8), "int32", {"dtype": "float32"}, "INPUT_DTYPE=float32"),
        ((8, 8), "float32", {"scaling": Scaling(dtype="float16")}, "MODEL_DTYPE=float16"),
        ((8, 8), "uint8", {"accepts": "encoded"}, "ACCEPTS=encoded"),
        ((), "bytes", {"accepts": "tensor"}, "ACCEPTS=tensor"),
    ],
)
def test_what_does_not_go_together_is_refused_with_both(
    shape: tuple[int, ...] | None, dtype: str, choice: dict[str, Any], setting: str
) -> None:
    declared, chosen = Declared("x", shape, dtype), Choice("named", **choice)
    with pytest.raises(StartError) as caught:
        chosen.learn(declared)

    assert f"MICROBATCH_{setting}:" in str(caught.value)
    assert str(declared) in str(caught.value)
