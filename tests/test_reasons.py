"""Why a batch was as small or large as it was, and what became of its jobs, as the metrics tell it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from metrics import Metrics
from records import Job, tensor_payload
from tests import test_jobs
from tests.scene import Scene, opened
from tests.test_claiming_ahead import SIZE, Model, batcher_of, until_depth
from tests.test_jobs import job, request

server = test_jobs.server
pytestmark = pytest.mark.parametrize("server", list(test_jobs.SERVERS)[-1:], indirect=True)
BAD = 13


@dataclass
class Choosy(Model):
    """Fails on a batch that holds BAD."""

    def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        if (batch == BAD).any():
            raise ValueError("13")
        return [0] * len(batch)


@pytest.fixture
async def scene(server: str) -> AsyncIterator[Scene]:
    async with opened(server) as scene:
        yield scene


def of_shape(*shape: int, value: int = 0) -> Job:
    uuid = job().uuid
    return Job(uuid, tensor_payload(uuid, np.full(shape, value, np.uint8)))


async def counted(scene: Scene, *jobs: Job, max_wait_s: float = 0.0) -> dict[str, float]:
    """Run all that is in the queue; return how many batches there were by their reason, and jobs by their outcome."""
    metrics, stopping = Metrics(), asyncio.Event()
    if jobs:
        await scene.submit(request(*jobs))
    batcher = batcher_of(scene.queue, Choosy(), metrics=metrics, max_wait_s=max_wait_s)
    running = asyncio.create_task(batcher.run(stopping))
    await until_depth(scene, 0)
    stopping.set()
    await running
    return {name: count for name, count in metrics.take().items() if name.startswith(("batches", "jobs"))}


async def test_what_an_idle_worker_finds_is_run_at_once(scene: Scene) -> None:
    assert await counted(scene, job(), job()) == {"batches idle": 1, "jobs ok": 2}


async def test_a_batch_that_can_hold_no_more_is_full(scene: Scene) -> None:
    assert await counted(scene, *(job() for _ in range(SIZE))) == {"batches full": 1, "jobs ok": SIZE}


async def test_images_of_several_shapes_are_batches_of_their_own(scene: Scene) -> None:
    assert await counted(scene, of_shape(2), of_shape(3)) == {"batches shape": 2, "jobs ok": 2}


async def test_a_batch_that_waited_for_company_says_so(scene: Scene) -> None:
    assert await counted(scene, job(), max_wait_s=0.05) == {"batches wait_over": 1, "jobs ok": 1}


async def test_jobs_of_a_worker_that_died_are_suspects(scene: Scene) -> None:
    await scene.submit(request(job()))
    await scene.crash()

    assert await counted(scene) == {"batches suspect": 1, "jobs ok": 1}


async def test_the_parts_of_a_failed_batch_are_splits_and_the_guilty_job_has_its_code(scene: Scene) -> None:
    jobs = [of_shape(2), of_shape(2, value=BAD)]

    assert await counted(scene, *jobs) == {"batches idle": 1, "batches split": 2, "jobs ok": 1, "jobs model_failed": 1}
