"""What a worker holds: kept through lost replies and failures of its own, and given back when it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from errors import InternalError
from holding import Holding
from jobs import JobQueue
from metrics import Metrics
from records import Claim, Progress, Result, Worker
from tests import test_jobs
from tests.fault_proxy import FaultProxy
from tests.faults import CUT, stall
from tests.scene import Scene, opened
from tests.test_claiming_ahead import Model, batcher_of, until_depth
from tests.test_jobs import job, request

server = test_jobs.server
pytestmark = pytest.mark.parametrize("server", list(test_jobs.SERVERS)[-1:], indirect=True)
LEASE_S = 2.0
SILENCE_S = 1.0


@pytest.fixture
async def scene(server: str) -> AsyncIterator[Scene]:
    async with opened(server) as scene:
        yield scene


@pytest.fixture
def proxy(server: str, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(tmp_path / "p", Path(server.removeprefix("unix://")), seed=1) as proxy:
        yield proxy


@pytest.fixture
async def holding(scene: Scene, proxy: FaultProxy) -> AsyncIterator[Holding]:
    queue = JobQueue(f"unix://{proxy.place}", name=scene.name, timeout_s=SILENCE_S)
    yield Holding(
        queue,
        worker_id="w",
        lease_s=LEASE_S,
        max_solo=3,
        model_timeout_s=5.0,
        result_ttl_s=60.0,
        describe=lambda: Worker("w", "busy", 0.0, None, 0.0, "test"),
    )
    await queue.close()


async def claim(holding: Holding) -> Claim:
    found = await holding.claim(
        asyncio.Event(), max_batch_size=8, least_s=0.0, max_wait_s=0.0, patience_s=0.0, block_s=0.0
    )

    assert found is not None
    return found


async def test_a_claim_that_came_late_has_its_whole_lease(scene: Scene, proxy: FaultProxy, holding: Holding) -> None:
    await scene.claim()  # Redis knows the script now
    await scene.submit(request(job()))
    proxy.order("CLAIM", stall(2 * SILENCE_S))
    (one,) = (await claim(holding)).jobs
    left_ms = float(await scene.ask("ZSCORE leases", one.uuid)) - await scene.now_ms()

    assert left_ms > (LEASE_S - SILENCE_S / 2) * 1000


async def test_who_leaves_gives_back_over_a_connection_that_is_cut(
    scene: Scene, proxy: FaultProxy, holding: Holding
) -> None:
    await scene.submit(request(job()))
    await claim(holding)
    proxy.order("SETTLE", CUT)
    await holding.leave()

    assert [await scene.ask("ZCARD leases"), await scene.ask("LLEN pending")] == [0, 1]


async def test_an_error_of_ours_fails_its_claim_and_the_worker_goes_on(scene: Scene) -> None:
    metrics = Metrics()
    see = metrics.batch_s.see

    def fail_once(_value: float) -> None:
        metrics.batch_s.see = see
        raise RuntimeError("no")

    metrics.batch_s.see = fail_once
    first, second, stopping = job(), job(), asyncio.Event()
    await scene.submit(request(first))
    running = asyncio.create_task(batcher_of(scene.queue, Model(), metrics=metrics).run(stopping))
    await until_depth(scene, 0)
    await scene.submit(request(second))
    await until_depth(scene, 0)
    stopping.set()
    await running
    bad, good = await scene.queue.poll([first.uuid, second.uuid])

    assert not isinstance(bad, Progress)
    assert isinstance(bad.error, InternalError)
    assert isinstance(good, Result)
    assert good.error is None
