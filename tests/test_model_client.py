"""Any Python code becomes a model, and runs in one thread of its own."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from config import Settings
from errors import ModelUnavailable, StartError
from inputs import ModelInput
from model_client import ModelClient, open_model
from models.digits import Digits

Write = Callable[..., ModelClient]

CLASS = """
class Model:
    input_shape = (2, 2)
    def predict(self, batch):
        return batch.sum(axis=(1, 2)).tolist()
"""
FUNCTION = "def Model(batch): return [str(batch.dtype) + str(batch.shape)] * len(batch)"
OBJECT = CLASS.replace("class Model", "class Made") + "Model = Made()"


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("MICROBATCH_", "REDIS_URL")):
            monkeypatch.delenv(name)


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module and open its `Model`."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str, **settings: Any) -> ModelClient:
        name = f"model_{uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(code)
        return open_model(Settings(model=f"python:{name}:Model", **settings))

    return write


def with_lines(*lines: str) -> str:
    """Return a class of a model with more in its body."""
    return CLASS + "".join(f"    {line}\n" for line in lines)


@pytest.mark.parametrize("code", [CLASS, OBJECT, CLASS.replace("predict", "__call__")], ids=["class", "object", "call"])
async def test_a_class_or_an_object_says_itself_what_it_takes(opened: Write, code: str) -> None:
    model = opened(code)

    predictions = await model.predict(np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], np.uint8))
    await model.close()

    assert predictions == [10, 26]
    assert model.takes == ModelInput((2, 2))


async def test_a_function_takes_what_the_settings_say(opened: Write) -> None:
    model = opened(FUNCTION, input_shape=(2, 3), input_dtype="int16", fit="pad")

    predictions = await model.predict(np.zeros((2, 2, 3), np.int16))
    await model.close()

    assert predictions == ["int16(2, 2, 3)"] * 2
    assert model.takes == ModelInput((2, 3), "int16", fit="pad")


def test_a_function_without_an_input_shape_is_refused(opened: Write) -> None:
    with pytest.raises(StartError, match="MICROBATCH_INPUT_SHAPE"):
        opened(FUNCTION)


@pytest.mark.parametrize(
    ("lines", "settings", "takes"),
    [
        (["input_dtype = 'float32'", "fit = 'crop'"], {}, ModelInput((2, 2), "float32", fit="crop")),
        (["input_shape = [4, 4, 3]"], {}, ModelInput((4, 4, 3))),
        (["import numpy", "input_dtype = numpy.dtype('f4')"], {}, ModelInput((2, 2), "float32")),
        (["accepts = 'encoded'", "input_shape = None"], {}, ModelInput((), accepts="encoded")),
        (["fit = 'crop'"], {"input_shape": (8, 8), "fit": "pad"}, ModelInput((8, 8), fit="pad")),
    ],
)
def test_settings_come_before_what_a_model_declares(
    opened: Write, lines: list[str], settings: dict[str, Any], takes: ModelInput
) -> None:
    assert opened(with_lines(*lines), **settings).takes == takes


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("", "has no attribute 'Model'"),
        ("Model = 3", "must be a function or have a predict method"),
        ("class Model: input_shape = (2, 2)", "must be a function or have a predict method"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        ("raise ValueError('no weights')", "no weights"),
        (with_lines("def __init__(self): raise OSError('no weights')"), "no weights"),
        (with_lines("def __init__(self, path): pass"), "path"),
    ],
)
def test_code_that_cannot_be_opened_is_refused_by_the_model_s_name(opened: Write, code: str, says: str) -> None:
    with pytest.raises(StartError, match=says) as caught:
        opened(code)

    assert str(caught.value).startswith("MICROBATCH_MODEL=python:model_")


@pytest.mark.parametrize("model", ["python:no_such_module_anywhere:Model", "python:no..such:Model"])
def test_a_module_that_is_not_there_is_refused(model: str) -> None:
    with pytest.raises(StartError, match=f"MICROBATCH_MODEL={model}: "):
        open_model(Settings(model=model))


@pytest.mark.parametrize(
    "line",
    [
        *(f"input_shape = {shape}" for shape in ["(0, 2)", "()", "5", "'2,2'", "(2.5, 2)", "(None, 2)"]),
        *("input_dtype = 'object'", "input_dtype = 'picture'", "accepts = 'images'", "fit = 'squash'"),
    ],
)
def test_a_declared_input_that_makes_no_sense_is_refused(opened: Write, line: str) -> None:
    with pytest.raises(StartError, match="input"):
        opened(with_lines(line))


async def test_warm_up_predict_and_close_run_once_each_in_one_thread_of_the_model_s_own(opened: Write) -> None:
    model = opened(
        with_lines(
            "from threading import get_ident",
            "seen = []",
            "def note(self, call): self.seen.append(f'{call} {Model.get_ident()}')",
            "def warm_up(self): self.note('warm_up')",
            "def predict(self, batch): self.note('predict'); return self.seen",
            "def close(self): self.note('close')",
        )
    )

    await model.warm_up()
    seen = await model.predict(np.zeros((1, 2, 2), np.uint8))
    await model.close()

    calls, threads = zip(*(str(each).split() for each in seen), strict=True)
    assert calls == ("warm_up", "predict", "close")
    assert len(set(threads) - {str(threading.get_ident())}) == 1


ANYWHERE = with_lines(
    "any_thread = True",
    "import threading, time",
    "def predict(self, batch):",
    "    if batch.max() == 9: raise ValueError('nine')",
    "    time.sleep(float(batch.max()) / 10)",
    "    return [self.threading.current_thread() is self.threading.main_thread()] * len(batch)",
).replace("time.sleep", "self.time.sleep")


async def on_the_event_loop(model: ModelClient, tenths_s: int) -> bool:
    return bool((await model.predict(np.full((1, 2, 2), tenths_s, np.uint8)))[0])


async def test_a_call_is_made_on_the_event_loop_only_after_a_quick_one_that_succeeded(opened: Write) -> None:
    model = opened(ANYWHERE)
    await model.warm_up()
    assert await on_the_event_loop(model, 0)
    with pytest.raises(ValueError, match="nine"):
        await on_the_event_loop(model, 9)

    assert not await on_the_event_loop(model, 2), "a failure is quick, whatever a success may be"
    assert not await on_the_event_loop(model, 0)
    assert await on_the_event_loop(model, 0)
    await model.close()


async def test_after_one_slow_call_there_none_is_made_on_the_event_loop(opened: Write) -> None:
    model = opened(ANYWHERE)
    await model.warm_up()

    assert await on_the_event_loop(model, 2)
    assert not any([await on_the_event_loop(model, 0) for _ in range(5)])
    await model.close()


async def test_a_model_without_warm_up_first_predicts_one_blank_image_as_scaled(opened: Write) -> None:
    model = opened(
        with_lines(
            "seen = []",
            "def predict(self, batch): self.seen.append(f'{batch.shape} {batch.sum()}'); return self.seen",
        ),
        input_mean=(-1.0,),
    )

    await model.warm_up()
    seen = await model.predict(np.ones((2, 2, 2), np.uint8))
    await model.close()

    assert seen == ["(1, 2, 2) 4.0", "(2, 2, 2) 16.0"]


@pytest.mark.parametrize("lines", [(), ("def warm_up(self): self.seen.append('own')",)])
async def test_warm_up_tries_each_size_that_batches_come_in(opened: Write, lines: tuple[str, ...]) -> None:
    code = with_lines(
        "seen = []", "def predict(self, batch): self.seen.append(len(batch)); return self.seen[-1:] * len(batch)"
    )
    model = opened(code + "".join(f"    {line}\n" for line in lines) + "seen = Model.seen\n")

    await model.warm_up((1, 4))
    module = sys.modules[model._predict.__module__]  # type: ignore[attr-defined]  # noqa: SLF001
    await model.close()

    assert module.seen == ["own"] * len(lines) + [1, 4]


async def test_a_model_that_gives_another_number_for_a_size_stops_the_start(opened: Write) -> None:
    model = opened(with_lines("def predict(self, batch): return [0]"))

    with pytest.raises(StartError, match="1 predictions for 4 images"):
        await model.warm_up((1, 4))
    await model.close()


@pytest.mark.parametrize(
    ("error", "becomes"),
    [("OSError('no weights')", StartError), ("errors.ModelUnavailable('later')", ModelUnavailable)],
)
async def test_a_warm_up_that_raises_stops_the_start_unless_it_is_worth_trying_again(
    opened: Write, error: str, becomes: type[Exception]
) -> None:
    model = opened(with_lines(f"def warm_up(self): import errors; raise {error}"))

    with pytest.raises(becomes, match=r"no weights|later"):
        await model.warm_up()
    await model.close()


@pytest.mark.parametrize(
    ("name", "settings"), [("digits", {"input_shape": (9, 9)}), ("simulated", {"input_mean": (1.0, 2.0)})]
)
async def test_a_model_that_cannot_take_its_blank_image_stops_the_start(name: str, settings: dict[str, Any]) -> None:
    model = open_model(Settings(model=name, **settings))

    with pytest.raises(StartError):
        await model.warm_up()
    await model.close()


async def test_the_batch_is_scaled_before_the_model_sees_it(opened: Write) -> None:
    model = opened(
        FUNCTION.replace("str(batch.shape)", "str(batch.shape) + str(batch.max())"),
        input_shape=(4, 5, 3),
        input_scale=0.5,
        input_layout="nchw",
        model_dtype="float16",
    )

    predictions = await model.predict(np.full((1, 4, 5, 3), 3, np.uint8))
    await model.close()

    assert predictions == ["float16(1, 3, 4, 5)1.5"]


async def test_an_exception_in_a_row_s_place_leaves_the_other_rows_alone(opened: Write) -> None:
    model = opened(with_lines("def predict(self, batch): return [1, ValueError('blank'), 3]"))

    first, failed, last = await model.predict(np.zeros((3, 2, 2), np.uint8))
    await model.close()

    assert (first, last) == (1, 3)
    assert isinstance(failed, ValueError)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32"])
async def test_simulated_predicts_the_sum_of_each_image(dtype: str) -> None:
    model = open_model(Settings(model="simulated"))
    images = np.random.default_rng(1).integers(0, 2, (3, 32, 32, 3)).astype(dtype)

    predictions = await model.predict(images)
    await model.close()

    assert predictions == [{"sum": image.sum().item()} for image in images]


async def test_simulated_costs_its_time_a_batch_and_an_image() -> None:
    model = open_model(Settings(model="simulated", simulated_batch_s=0.05, simulated_image_s=0.02))

    started_s = time.monotonic()
    await model.predict(np.zeros((5, 2), np.uint8))
    took_s = time.monotonic() - started_s
    await model.close()

    assert 0.15 <= took_s < 1


async def test_digits_opened_predicts_what_digits_does() -> None:
    model = open_model(Settings(model="digits"))
    images = np.random.default_rng(1).integers(0, 256, (3, 8, 8), dtype=np.uint8)

    await model.warm_up()
    predictions = await model.predict(images)
    await model.close()

    assert predictions == Digits().predict(images)
    assert model.takes == Digits.takes
