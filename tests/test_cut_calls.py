"""Who is to blame for a call that was cut: the server, or an image; and when it is cut."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from batch_sizes import BatchSizes
from batching import BatchEstimate, group
from errors import CallCut
from metrics import Metrics
from model_calls import REMEMBERED_CALLS, ModelCalls
from records import ClaimedJob, Settlement
from tests import own_models
from tests.own_models import Open
from tests.runs import Worker, said
from tests.tf_serving_client import opened as opened_remote
from tests.tf_serving_client import serving

opened = own_models.opened
TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as (_, number):
        yield number


@asynccontextmanager
async def worker_of(port: int, name: str = "stuck-5", timeout_s: float = TIMEOUT_S) -> AsyncIterator[Worker]:
    """Open a batcher's inference with a model server; both have the same time limit, as by the settings."""
    async with opened_remote(f"http://127.0.0.1:{port}", name, timeout_s=timeout_s) as model:
        await model.warm_up()
        worker = Worker(model, model_timeout_s=timeout_s)
        yield worker
        worker.close()


def pictures(values: Sequence[int]) -> list[NDArray[Any]]:
    return [np.full((4, 4, 3), value, np.uint8) for value in values]


async def answers(worker: Worker, *values: int, **how: str) -> list[object]:
    return [said(one) for one in await worker.run(pictures(values), **how)]


@pytest.mark.parametrize("bad", [{3}, {0}, {6, 7}, {0, 7}])
async def test_behind_a_server_that_answers_others_the_images_that_hang_fail_alone(port: int, bad: set[int]) -> None:
    async with worker_of(port) as worker:
        given = [255 if place in bad else place for place in range(8)]

        found = await answers(worker, *given)

        assert found == ["model_failed" if value == 255 else 48.0 * value for value in given]
        assert worker.yields > worker.inference.calls.work.batches, "leases are kept by what is told after each call"
        assert worker.breaker.pause_s(now_s=time.monotonic()) == 0


async def test_an_image_that_hangs_alone_lets_others_go_first_and_fails_the_next_time(port: int) -> None:
    async with worker_of(port) as worker:
        first = await answers(worker, 255)
        second = await answers(worker, 255, code="model_unavailable")
        others = await answers(worker, 1, 2)

    assert (first, second, others) == (["behind"], ["model_failed"], [48.0, 96.0])


async def test_of_a_server_that_hangs_no_image_is_to_blame() -> None:
    with serving() as (process, port):
        async with worker_of(port) as worker:
            assert await answers(worker, 1, 2) == [48.0, 96.0]
            process.send_signal(signal.SIGSTOP)
            several = await answers(worker, 1, 2, 3)
            pause_s = worker.breaker.pause_s(now_s=time.monotonic())
            time.sleep(pause_s)  # noqa: ASYNC251  # nothing else runs
            alone = await answers(worker, 1, code="model_unavailable")
            process.send_signal(signal.SIGCONT)

    assert several == ["release"] * 3
    assert pause_s > 0
    assert alone == ["behind"]


async def test_a_server_that_stops_while_a_batch_is_split_is_to_blame_itself() -> None:
    """What was answered before stays answered."""
    with serving() as (process, port):
        async with worker_of(port, timeout_s=0.6) as worker:

            def stop_once_some_are_answered(settled: list[Settlement]) -> None:
                if settled:
                    process.send_signal(signal.SIGSTOP)

            worker.on_yield = stop_once_some_are_answered
            found = await answers(worker, 0, 1, 2, 3, 255, 5, 6, 7)
            process.send_signal(signal.SIGCONT)

    assert found == [0.0, 48.0, 96.0, 144.0, *["release"] * 4]


@pytest.mark.parametrize("name", ["fail-504", "drop"])
async def test_a_server_that_says_so_itself_is_to_blame(port: int, name: str) -> None:
    async with opened_remote(f"http://127.0.0.1:{port}", name, timeout_s=TIMEOUT_S) as model:
        worker = Worker(model, model_timeout_s=TIMEOUT_S)

        assert await answers(worker, 1, 2) == ["release"] * 2
        worker.close()


async def test_the_limit_of_the_batcher_cuts_before_that_of_the_connection(port: int) -> None:
    async with opened_remote(f"http://127.0.0.1:{port}", "slow-5", timeout_s=TIMEOUT_S) as model:
        calls = calls_of(model)
        job = ClaimedJob("uuid", "run", 30.0, 0.0, "api", "", b"")
        [batch] = group([(job, pictures([1])[0])])

        with pytest.raises(CallCut):
            await calls.predict(batch, "idle")


def calls_of(model: Any, model_timeout_s: float = TIMEOUT_S) -> ModelCalls:
    return ModelCalls(
        model,
        model_timeout_s=model_timeout_s,
        estimate=BatchEstimate(cap_s=5),
        sizes=BatchSizes(),
        metrics=Metrics(),
    )


def test_suspects_have_four_times_what_calls_took_at_least_a_second_and_never_more_than_others() -> None:
    calls = calls_of(None, 20.0)
    assert calls.suspects_limit_s == 20.0

    calls.took_s.extend([0.01] * (REMEMBERED_CALLS - 1))
    assert calls.suspects_limit_s == 1.0

    calls.took_s.extend([2.0] * 10)
    assert calls.suspects_limit_s == 8.0

    calls.took_s.extend([9.0] * 10)
    assert calls.suspects_limit_s == 20.0


async def test_suspects_that_hang_in_a_process_of_their_own_are_cut_sooner(opened: Open) -> None:
    model = opened(
        "import time\n"
        "class Model:\n"
        "    input_shape = (4, 4, 3)\n"
        "    def predict(self, batch):\n"
        "        if 255 in batch: time.sleep(60)\n"
        "        return [float(row.sum()) for row in batch]\n"
    )
    await model.warm_up()
    worker = Worker(model, model_timeout_s=30.0)
    await answers(worker, 1, 2)

    began_s = time.monotonic()
    found = await answers(worker, 1, 255, reason="suspect")
    took_s = time.monotonic() - began_s
    worker.close()

    assert found == ["died"] * 2
    assert took_s < 5
    assert worker.breaker.pause_s(now_s=time.monotonic()) == 0
