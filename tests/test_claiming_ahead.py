"""A batcher claims its next batch shortly before the model is done with this one, and holds nothing beside suspects."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.workloads import photo
from decoding import Decoder, Threads
from inputs import ModelInput
from jobs import JobQueue
from loop import Batcher
from metrics import Metrics
from models.in_process import InProcess
from models.scaling import Scaling
from records import Job, Progress, Result, encoded_payload, tensor_payload
from tests import test_jobs
from tests.scene import Scene, opened
from tests.test_jobs import job, request

server = test_jobs.server
pytestmark = pytest.mark.parametrize("server", list(test_jobs.SERVERS)[-1:], indirect=True)
CALL_S = 0.05
SIZE = 8
TENSORS = ModelInput((2,))


@dataclass
class Model:
    """Takes CALL_S a batch; remembers from when to when, but for the `blank` ones that a batcher tries at its start."""

    blank: int = 3
    blank_sizes: list[int] = field(default_factory=list)
    calls: list[tuple[float, float]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    at_end: Callable[[], None] = lambda: None

    def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        if self.blank:
            self.blank -= 1
            self.blank_sizes.append(len(batch))
            return [0] * len(batch)
        began_s = time.monotonic()
        time.sleep(CALL_S)  # what a call takes: nothing is waited for
        self.at_end()
        self.sizes.append(len(batch))
        self.calls.append((began_s, time.monotonic()))
        return [0] * len(batch)


@pytest.fixture
async def scene(server: str) -> AsyncIterator[Scene]:
    async with opened(server) as scene:
        yield scene


def batcher_of(
    queue: JobQueue,
    model: Model,
    takes: ModelInput = TENSORS,
    *,
    metrics: Metrics | None = None,
    max_wait_s: float = 0.0,
    allowed_batch_sizes: tuple[int, ...] = (),
) -> Batcher:
    return Batcher(
        queue,
        InProcess(model.predict, takes=takes, scaling=Scaling(), warm_up=lambda: None),
        Decoder(Threads(1), formats=("jpeg",), max_pixels=25_000_000),
        worker_id=uuid4().hex,
        model_name="test",
        max_batch_size=SIZE,
        allowed_batch_sizes=allowed_batch_sizes,
        max_wait_s=max_wait_s,
        lease_s=2.0,
        max_solo=3,
        model_timeout_s=5.0,
        result_ttl_s=60.0,
        longest_estimate_s=5.0,
        metrics=metrics or Metrics(),
    )


def leases_now(scene: Scene, loop: asyncio.AbstractEventLoop) -> int:
    """Return how many jobs are leased, for who is in the model's thread."""
    return int(asyncio.run_coroutine_threadsafe(scene.ask("ZCARD leases"), loop).result(5))


async def until_depth(scene: Scene, depth: int) -> None:
    end_s = time.monotonic() + 10
    while await scene.queue.depth() > depth:
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)


async def test_the_model_gets_its_next_batch_at_once(scene: Scene) -> None:
    model, stopping = Model(), asyncio.Event()
    await scene.submit(request(*(job() for _ in range(12 * SIZE))))
    running = asyncio.create_task(batcher_of(scene.queue, model).run(stopping))
    await until_depth(scene, 0)
    stopping.set()
    await running
    gaps_s = [begin_s - end_s for (_, end_s), (begin_s, _) in zip(model.calls, model.calls[1:], strict=False)]

    assert model.sizes == [SIZE] * 12
    assert median(gaps_s[2:]) < 0.003, gaps_s


async def test_the_next_batch_is_decoded_while_the_model_is_busy_with_this_one(scene: Scene) -> None:
    uuids = [str(uuid4()) for _ in range(8 * SIZE)]
    jobs = [Job(uuid, encoded_payload(uuid, photo(number))) for number, uuid in enumerate(uuids)]
    model, stopping = Model(), asyncio.Event()
    await scene.submit(request(*jobs))
    running = asyncio.create_task(batcher_of(scene.queue, model, ModelInput((224, 224, 3))).run(stopping))
    await until_depth(scene, 0)
    stopping.set()
    await running
    answers = await scene.queue.poll(uuids)
    decode_s = median(one.timing.decode_s for one in answers if isinstance(one, Result))
    gaps_s = [begin_s - end_s for (_, end_s), (begin_s, _) in zip(model.calls, model.calls[1:], strict=False)]

    assert model.sizes == [SIZE] * 8
    assert median(gaps_s[2:]) < decode_s / 2, (gaps_s, decode_s)


async def test_the_next_claim_is_made_ahead_also_where_each_takes_several_calls(scene: Scene) -> None:
    """Jobs of two shapes, in turn: no call is ever as large as its claim."""
    uuids = [str(uuid4()) for _ in range(8 * SIZE)]
    tensors = [np.zeros((number % 2 + 1,), np.uint8) for number in range(len(uuids))]
    mine = [Job(uuid, tensor_payload(uuid, tensor)) for uuid, tensor in zip(uuids, tensors, strict=True)]
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    held: list[int] = []
    model = Model(at_end=lambda: held.append(leases_now(scene, loop)))
    await scene.submit(request(*mine))
    running = asyncio.create_task(batcher_of(scene.queue, model).run(stopping))
    await until_depth(scene, 0)
    stopping.set()
    await running

    assert model.sizes == [SIZE // 2] * 16
    assert max(held) > SIZE, "it never held the next claim too"


async def test_who_is_told_to_stop_finishes_what_it_claimed_ahead(scene: Scene) -> None:
    mine, stopping, loop = [job() for _ in range(8 * SIZE)], asyncio.Event(), asyncio.get_running_loop()

    def stop_once_two_claims_are_held() -> None:
        if leases_now(scene, loop) > SIZE:
            loop.call_soon_threadsafe(stopping.set)

    model = Model(at_end=stop_once_two_claims_are_held)
    await scene.submit(request(*mine))
    async with asyncio.timeout(10):
        await batcher_of(scene.queue, model).run(stopping)
    answers = await scene.queue.poll([one.uuid for one in mine])

    assert len([one for one in answers if isinstance(one, Result)]) == sum(model.sizes)
    assert answers.count(Progress.WORKING) == 8 * SIZE - sum(model.sizes) > 0
    assert await scene.ask("ZCARD leases") == 0


async def test_what_waits_behind_a_call_that_stalls_goes_to_who_is_free(scene: Scene) -> None:
    mine, stopping = [job() for _ in range(6 * SIZE)], asyncio.Event()
    stalls, goes_on = threading.Event(), threading.Event()

    def stall_at_the_fifth() -> None:
        if len(stalling.calls) == 4:
            stalls.set()
            goes_on.wait(10)

    async def answered() -> int:
        return sum(isinstance(one, Result) for one in await scene.queue.poll([one.uuid for one in mine]))

    stalling, free = Model(at_end=stall_at_the_fifth), Model()
    await scene.submit(request(*mine))
    running = [asyncio.create_task(batcher_of(scene.queue, stalling).run(stopping))]
    await asyncio.to_thread(stalls.wait, 10)

    assert await scene.ask("ZCARD leases") == 2 * SIZE

    running.append(asyncio.create_task(batcher_of(scene.queue, free).run(stopping)))
    end_s = time.monotonic() + 1.5  # before any lease ends
    while await answered() < 5 * SIZE:
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)

    assert free.sizes == [SIZE]

    goes_on.set()
    await until_depth(scene, 0)
    stopping.set()
    await asyncio.gather(*running)

    assert (await answered(), sum(stalling.sizes)) == (6 * SIZE, 5 * SIZE)


async def test_suspects_run_with_nothing_else_in_the_process(scene: Scene) -> None:
    leased: list[int] = []
    loop = asyncio.get_running_loop()

    def look() -> None:
        leased.append(leases_now(scene, loop))

    model, stopping = Model(at_end=look), asyncio.Event()
    await scene.take(3, crash=True)
    await scene.submit(request(*(job() for _ in range(2 * SIZE))))
    running = asyncio.create_task(batcher_of(scene.queue, model).run(stopping))
    await until_depth(scene, 0)
    stopping.set()
    await running

    assert model.sizes == [1, 1, 1, SIZE, SIZE]
    assert leased[:3] == [1, 1, 1]


@pytest.mark.parametrize(
    ("allowed", "sizes"), [((), [1, SIZE, SIZE]), ((4, 16), [4, 16, 16]), ((SIZE,), [SIZE, SIZE, SIZE])]
)
async def test_blank_batches_tell_what_a_full_one_takes_in_sizes_that_the_model_is_made_for(
    scene: Scene, allowed: tuple[int, ...], sizes: list[int]
) -> None:
    model, stopping = Model(blank=10), asyncio.Event()
    running = asyncio.create_task(batcher_of(scene.queue, model, allowed_batch_sizes=allowed).run(stopping))
    end_s = time.monotonic() + 10
    while not any(worker.state == "idle" for worker in await scene.queue.workers()):
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)
    (worker,) = await scene.queue.workers()
    stopping.set()
    await running

    assert model.blank_sizes[len(allowed) :] == sizes, "after those of the model's own warm-up"
    assert 0 < worker.batch_s < CALL_S
