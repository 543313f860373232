"""Own code in a process of its own: it may crash, hang and hold Python's lock, and its batcher goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import pytest

from batch_sizes import BatchSizes
from batching import BatchEstimate
from breaker import CircuitBreaker
from config import Settings
from decoding import Decoder, Threads
from errors import BatchTooLarge, ModelFailed, ModelUnavailable, StartError
from inference import Inference
from inputs import ModelInput
from metrics import Metrics
from model_client import ModelClient, open_model
from models import own_code, own_process
from models.own_process import OwnProcess
from records import Settlement, tensor_payload
from tests.test_inference import jobs

Write = Callable[..., OwnProcess]

MODEL = """
import os, pathlib, time
from errors import ModelUnavailable

class Model:
    input_shape = (1,)

    def predict(self, batch):
        values = batch[:, 0].tolist()
        if 99 in values: os._exit(3)
        if 98 in values: time.sleep(60)
        if 97 in values: raise ValueError("no such picture")
        if 96 in values: raise ModelUnavailable("later")
        if 95 in values: raise RuntimeError("CUDA out of memory")
        if 94 in values: sum(range(30_000_000))
        if 93 in values: return {"not": "a list"}
        return [ValueError("bad") if value == 50 else {"value": value, "process": os.getpid()} for value in values]
"""


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module and open its `Model` in a process; the settings reach it by the environment, as they do."""
    for name in [name for name in os.environ if name.upper().startswith(("MICROBATCH_", "REDIS_URL"))]:
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str = MODEL, **settings: str) -> OwnProcess:
        name = f"model_{uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(code)
        settings = {"MODEL": f"python:{name}:Model", "PYTHON_RUNS_IN": "process"} | settings
        for key, value in settings.items():
            monkeypatch.setenv(f"MICROBATCH_{key}", value)
        model = open_model(Settings())
        assert isinstance(model, OwnProcess)
        return model

    return write


def batch(*values: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(values, np.uint8).reshape(-1, 1)


async def values(model: ModelClient, *given: int) -> list[Any]:
    return [row["value"] if isinstance(row, dict) else row for row in await model.predict(batch(*given))]


async def process_of(model: ModelClient) -> int:
    (row,) = await model.predict(batch(0))
    assert isinstance(row, dict)
    return int(row["process"])


async def until_gone(process: int) -> None:
    end_s = time.monotonic() + 5
    while psutil.pid_exists(process):
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)


async def until_noticed(model: OwnProcess) -> None:
    """Wait until the client knows that its process has ended."""
    end_s = time.monotonic() + 5
    while model.process.is_running:
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)


async def test_it_predicts_elsewhere_and_an_exception_in_a_row_s_place_fails_that_row(opened: Write) -> None:
    model = opened()
    await model.warm_up()

    one, bad, two = await model.predict(batch(1, 50, 2))
    process = await process_of(model)
    await model.close()

    assert isinstance(bad, RuntimeError)
    assert "bad" in str(bad)
    assert one == {"value": 1, "process": process}
    assert two == {"value": 2, "process": process}
    assert process != os.getpid()
    assert model.takes == ModelInput((1,))
    assert not model.in_process
    await until_gone(process)


@pytest.mark.parametrize(
    ("value", "raised"),
    [(97, ModelFailed), (96, ModelUnavailable), (95, BatchTooLarge), (93, ModelFailed)],
)
async def test_what_the_model_raises_fails_the_call_and_the_process_goes_on(
    opened: Write, value: int, raised: type[Exception]
) -> None:
    model = opened()
    await model.warm_up()
    before = await process_of(model)

    with pytest.raises(raised):
        await model.predict(batch(1, value))
    after = await process_of(model)
    await model.close()

    assert before == after


async def run(model: ModelClient, *given: int, reason: str = "idle", model_timeout_s: float = 10.0) -> list[Settlement]:
    """Run a claim of such images; return what becomes of each."""
    threads = Threads(1)
    inference = Inference(
        model,
        Decoder(threads, formats=("png",), max_pixels=100),
        model_timeout_s=model_timeout_s,
        estimate=BatchEstimate(cap_s=5),
        sizes=BatchSizes(),
        breaker=CircuitBreaker(),
        worker_id="w",
        metrics=Metrics(),
    )
    claimed = [
        replace(job, payload=tensor_payload(job.uuid, np.array([value], np.uint8)))
        for job, value in zip(jobs(len(given)), given, strict=True)
    ]
    settled = {one.uuid: one async for some in inference.run(claimed, reason) for one in some}
    threads.close()
    return [settled[job.uuid] for job in claimed]


async def test_an_image_that_ends_the_process_fails_alone(opened: Write) -> None:
    model = opened()
    await model.warm_up()

    settled = await run(model, 0, 1, 2, 3, 4, 99, 6, 7)
    await model.close()

    assert [one.kind for one in settled] == ["ok"] * 5 + ["error"] + ["ok"] * 2


async def test_a_process_that_was_killed_between_calls_costs_no_image(opened: Write) -> None:
    model = opened()
    await model.warm_up()
    process = await process_of(model)

    os.kill(process, signal.SIGKILL)
    await until_gone(process)
    await until_noticed(model)
    settled = await run(model, 7)
    await model.process.until_running()

    assert [one.kind for one in settled] == ["release"]  # at once: another batcher may be free
    assert await values(model, 7) == [7]
    await model.close()


async def test_a_model_that_cannot_be_opened_again_is_unavailable_and_blames_no_image(
    opened: Write, tmp_path: Path
) -> None:
    shut = tmp_path / "shut"
    model = opened(f"import pathlib\nif pathlib.Path({str(shut)!r}).exists(): raise OSError('no card')\n" + MODEL)
    await model.warm_up()
    process = await process_of(model)

    shut.touch()
    os.kill(process, signal.SIGKILL)
    await until_gone(process)
    await until_noticed(model)
    with pytest.raises(ModelUnavailable):
        await model.process.until_running()
    shut.unlink()
    await model.process.until_running()

    assert await values(model, 7) == [7]
    await model.close()


async def test_an_image_that_was_alone_in_a_killed_process_is_not_blamed(opened: Write) -> None:
    model = opened()
    await model.warm_up()
    process = await process_of(model)

    call = asyncio.create_task(run(model, 94))
    await asyncio.sleep(0.02)  # into the call, which takes many times as long; an earlier kill must be survived as well
    os.kill(process, signal.SIGKILL)

    assert [b'"value":94' in one.value for one in await call] == [True]
    assert await process_of(model) != process
    await model.close()


async def test_a_call_that_is_cut_ends_the_process_and_the_next_one_starts_another(opened: Write) -> None:
    model = opened()
    await model.warm_up()
    hung = await process_of(model)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await model.predict(batch(98))
    await until_gone(hung)
    await model.process.until_running()

    assert await values(model, 7) == [7]
    await model.close()


async def test_code_that_holds_pythons_lock_holds_up_nothing_here(opened: Write) -> None:
    model = opened()
    await model.warm_up()
    longest_s = 0.0

    call = asyncio.create_task(values(model, 94))
    while not call.done():
        began_s = time.monotonic()
        await asyncio.sleep(0.001)
        longest_s = max(longest_s, time.monotonic() - began_s)
    await model.close()

    assert call.result() == [94]
    assert longest_s < 0.2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_that_reach_all_processes_leave_the_last_batch_alone(opened: Write, number: int) -> None:
    model = opened()
    await model.warm_up()
    process = await process_of(model)

    call = asyncio.create_task(values(model, 94))
    await asyncio.sleep(0)
    os.kill(process, number)

    assert await call == [94]
    await model.close()


async def test_its_own_warm_up_and_close_are_called_and_what_is_scaled_is_scaled_there(
    opened: Write, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    code = MODEL + (
        f"    def say(self, word): pathlib.Path({str(said)!r}).open('a').write(word + ' ')\n"
        "    def warm_up(self): self.say('warm')\n"
        "    def close(self): self.say('closed')\n"
    )
    model = opened(code, INPUT_SCALE="0.5")

    await model.warm_up()
    found = await values(model, 8)
    await model.close()

    assert found == [4.0]
    assert said.read_text().split() == ["warm", "closed"]


async def test_image_files_reach_a_model_that_takes_them(opened: Write) -> None:
    model = opened(
        "class Model:\n    accepts = 'encoded'\n    def predict(self, batch): return [len(x) for x in batch]"
    )
    await model.warm_up()
    files = np.empty(3, object)
    files[:] = [b"a", b"", b"abc" * 100_000]

    assert await model.predict(files) == [1, 0, 300_000]
    await model.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise OSError('no weights')", "no weights"),
        ("import os; os._exit(7)", "exit code 7"),
        ("def Model(batch): return [0]", "INPUT_SHAPE"),
        (MODEL + "    def warm_up(self): raise ValueError('no card')\n", "no card"),
        (MODEL.replace("for value in values]", "for value in values][1:]"), "0 predictions for 1 images"),
    ],
)
async def test_a_model_that_cannot_be_opened_stops_the_start(opened: Write, code: str, said: str) -> None:
    model = opened(code)

    with pytest.raises(StartError, match=said):
        await model.warm_up()
    await model.close()


SLOW = "import os, pathlib, time\nif pathlib.Path({gate!r}).exists(): time.sleep({load_s})\n" + MODEL


async def test_a_call_that_is_cut_is_a_death_of_its_jobs_and_loading_again_is_not_part_of_a_call(
    opened: Write, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    model = opened(SLOW.replace("{gate!r}", repr(str(gate))).replace("{load_s}", "1.0"))
    await model.warm_up()
    gate.touch()

    cut = await run(model, 0, 98, 1, model_timeout_s=0.4)
    meanwhile = await run(model, 0, 1, model_timeout_s=0.4)
    await model.process.until_running()
    after = await run(model, 0, 1, model_timeout_s=0.4)
    await model.close()

    assert [(one.kind, one.value) for one in cut] == [("died", b"model_unavailable")] * 3
    assert [one.kind for one in meanwhile] == ["release"] * 2
    assert [one.kind for one in after] == ["ok"] * 2


async def test_parts_of_a_batch_that_ended_the_process_are_deaths_where_it_is_not_there_again_in_time(
    opened: Write, tmp_path: Path
) -> None:
    """Or they would be run together again and again, until their deadlines."""
    gate = tmp_path / "gate"
    model = opened(SLOW.replace("{gate!r}", repr(str(gate))).replace("{load_s}", "1.0"))
    await model.warm_up()
    gate.touch()

    settled = await run(model, 0, 99, 1, model_timeout_s=0.2)
    await model.close()

    assert [one.kind for one in settled] == ["died"] * 3


async def test_a_restart_that_hangs_is_given_up_and_the_next_one_succeeds(
    opened: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_process, "RESTARTS_TAKE", 1.0)
    monkeypatch.setattr(own_code, "LEAST_RESTART_S", 0.0)
    gate = tmp_path / "gate"
    code = SLOW.replace("{gate!r}", repr(str(gate))).replace("{load_s}", "60")
    model = opened(code, MODEL_TIMEOUT_S="1")
    await model.warm_up()
    gate.touch()
    await run(model, 98, model_timeout_s=0.2)
    hanging = await child_of_this_process()

    with pytest.raises(ModelUnavailable, match="cannot be started"):
        await model.process.until_running()
    await until_gone(hanging)
    gate.unlink()
    await model.process.until_running()

    assert await values(model, 7) == [7]
    await model.close()


async def test_closing_while_it_is_started_again_leaves_no_process(opened: Write, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    model = opened(SLOW.replace("{gate!r}", repr(str(gate))).replace("{load_s}", "60"))
    await model.warm_up()
    gate.touch()
    await run(model, 98, model_timeout_s=0.2)
    starting = await child_of_this_process()
    waiting = asyncio.create_task(model.process.until_running())
    await asyncio.sleep(0)

    await model.close()
    await until_gone(starting)
    waiting.cancel()

    assert not model.process.is_running


async def test_who_waits_for_a_start_may_give_up_and_the_start_goes_on(opened: Write) -> None:
    model = opened()
    await model.warm_up()
    await run(model, 98, model_timeout_s=0.2)

    waiting = [asyncio.create_task(model.process.until_running()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.gather(*waiting[1:])

    assert await values(model, 7) == [7]
    await model.close()


async def child_of_this_process() -> int:
    """Wait until a process of a model has been started here; return its id."""
    end_s = time.monotonic() + 5
    while not (children := [one for one in psutil.Process().children() if one.status() != psutil.STATUS_ZOMBIE]):
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)
    return children[-1].pid
