"""Whatever the value in one image's place is, and whatever its methods do, it fails that image alone."""

from __future__ import annotations

import numpy as np
import pytest

from errors import ModelFailed, StartError, tame, told
from model_client import ModelClient
from tests import own_models
from tests.own_models import RUNS_IN, Open
from tests.runs import Worker, said

opened = own_models.opened

MODEL = """
import enum
import numpy as np
from errors import InvalidImage, ModelFailed

def bang(*_):
    raise {raised}

class Speechless(ValueError):
    __str__ = __repr__ = bang

class Stranger(ValueError):
    __class__ = property(bang)

class Thing:
    __str__ = __repr__ = __iter__ = __len__ = __hash__ = __eq__ = bang
    __class__ = property(bang)

class Word(str):
    __str__ = __repr__ = bang

class Colour(enum.Enum):
    RED = object()

class Mute(ModelFailed):
    def __init__(self): pass

def endless():
    rows = []
    rows.append(rows)
    return rows

ROWS = [
    {rows}
]

class Model:
    input_shape = (2,)

    def predict(self, batch):
        {first}
        return [ROWS[which - 1]() if which else number for number, which in batch.tolist()]
"""
ROWS = (
    "Speechless()",
    "Stranger()",
    "ValueError('\\udcff')",
    "ModelFailed('\\udcff')",
    "Mute()",
    "Thing()",
    "{'a': [1, {'b': Thing()}]}",
    "{Word('a'): 1, (1, 2): 2}",
    "Colour.RED",
    "'\\udcff'",
    "endless()",
    "2 ** 70",
    "np.array([Thing()], object)",
    "b'abc'",
    "Thing",
    "SystemExit(3)",
)
ERRORS = ("Speechless()", "Stranger()", "ValueError('\\udcff')", "Mute()")
RAISED = ("ValueError('bang')", "SystemExit(3)", "KeyboardInterrupt()", "RecursionError()")
COUNT, BAD = 8, 5


def opened_with(opened: Open, runs_in: str, rows: tuple[str, ...], raised: str, first: str = "") -> ModelClient:
    """Open a model that gives such rows, each where an image asks for it; first: what it does before."""
    code = MODEL.replace("{rows}", ",\n    ".join(f"lambda: {row}" for row in rows))
    return opened(code.replace("{raised}", raised).replace("{first}", first), runs_in)


async def answers_with(worker: Worker, which: int) -> tuple[list[object], int]:
    """Run images of which one asks for such a row; return the answers, and how many calls that took."""
    before = worker.inference.calls.work.batches
    images = [np.array([number, which + 1 if number == BAD else 0], np.uint8) for number in range(COUNT)]
    answers = await worker.run(images)
    return [said(one) for one in answers], worker.inference.calls.work.batches - before


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("runs_in", RUNS_IN)
async def test_a_hostile_row_fails_alone_without_a_further_call(opened: Open, runs_in: str, raised: str) -> None:
    model = opened_with(opened, runs_in, ROWS, raised)
    await model.warm_up()
    worker = Worker(model)

    found = [await answers_with(worker, which) for which in range(len(ROWS))]
    worker.close()

    expected = [*range(BAD), "model_failed", *range(BAD + 1, COUNT)]
    assert [row for row, one in zip(ROWS, found, strict=True) if one != (expected, 1)] == []


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("runs_in", RUNS_IN)
async def test_an_exception_that_cannot_be_told_fails_its_image_and_not_the_batcher(
    opened: Open, runs_in: str, raised: str
) -> None:
    first = "for which in batch[:, 1].tolist():\n            if which: raise ROWS[which - 1]()"
    model = opened_with(opened, runs_in, ERRORS, raised, first)
    await model.warm_up()
    worker = Worker(model)

    found = [(await answers_with(worker, which))[0] for which in range(len(ERRORS))]
    worker.close()

    expected = [*range(BAD), "model_failed", *range(BAD + 1, COUNT)]
    assert [row for row, one in zip(ERRORS, found, strict=True) if one != expected] == []


@pytest.mark.parametrize("runs_in", RUNS_IN)
async def test_an_error_of_the_service_is_told_as_it_is(opened: Open, runs_in: str) -> None:
    model = opened_with(opened, runs_in, ("InvalidImage('too dark')",), "ValueError")
    await model.warm_up()
    worker = Worker(model)

    answers, _ = await answers_with(worker, 0)
    worker.close()

    assert answers[BAD] == "invalid_image"


@pytest.mark.parametrize("runs_in", RUNS_IN)
async def test_an_exception_that_cannot_be_told_at_the_warm_up_is_one_line_as_any_other(
    opened: Open, runs_in: str
) -> None:
    model = opened_with(opened, runs_in, ROWS, "SystemExit(3)", "raise Speechless()")

    with pytest.raises(StartError, match=r"failed at its warm-up: .*Speechless"):
        await model.warm_up()


class Speechless(ValueError):
    """An exception that ends whoever asks for its words."""

    def __str__(self) -> str:
        """Tell nothing."""
        raise SystemExit(3)


def test_the_text_of_any_exception_can_be_had() -> None:
    assert told(ValueError("bad")) == "ValueError: bad"
    assert told(MemoryError()) == "MemoryError"
    assert told(ValueError("\udcff")) == "ValueError: ?"
    assert "Speechless" in told(Speechless())


def test_an_exception_that_can_be_told_stays_what_it_is() -> None:
    good = ModelFailed("bad")

    assert tame(good) is good
    assert type(tame(Speechless())) is RuntimeError
