"""What the queue itself does while other jobs wait in it: batches of 32 submitted, claimed and settled over again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from uuid import uuid4

import numpy as np
import psutil

from bench.parts import Started
from bench.workloads import tensors
from jobs import JobQueue
from records import Admission, Job, Settlement, Submission, Timing, prediction_value, tensor_payload
from tools.local_redis import find_redis, private_directory, redis_command, socket_path, wait_until_up

BATCH = 32
LONG_S = 600.0
MOST = 1_000_000
"""As many jobs and results as the queue may hold here."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was done at one depth: jobs a second, the time of one whole turn of a batch, and shares of a core."""

    depth: int
    per_s: float
    p50_ms: float
    p99_ms: float
    own_cores: float
    redis_cores: float


def measure(depths: Iterable[int], *, seconds: float) -> Iterator[Look]:
    """Yield a look at each depth, the smallest first: the jobs that wait are added to."""
    with private_directory() as folder, Started() as started:
        redis = started.start("redis", redis_command(find_redis(), folder), {})
        wait_until_up(folder)
        with asyncio.Runner() as runner:
            queue = JobQueue(f"unix://{socket_path(folder)}", name="depths", timeout_s=10.0)
            for depth in depths:
                yield runner.run(_look(queue, psutil.Process(redis.pid), depth, seconds))
            runner.run(queue.close())


async def _look(queue: JobQueue, redis: psutil.Process, depth: int, seconds: float) -> Look:
    """Fill up to a depth; then submit, claim, settle and collect a batch, over and over."""
    body = tensors().bodies[0][-32 * 32 * 3 :]
    while (missing := depth - await queue.depth()) > 0:
        await _submit(queue, body, min(missing, 256))
    before_s, own_before_s = sum(redis.cpu_times()[:2]), time.process_time()
    began_s, turns_s = time.perf_counter(), list[float]()
    while (now_s := time.perf_counter()) < began_s + seconds:
        await _submit(queue, body, BATCH)
        await _serve(queue)
        turns_s.append(time.perf_counter() - now_s)
    took_s = time.perf_counter() - began_s
    turns_s.sort()
    return Look(
        depth=depth,
        per_s=len(turns_s) * BATCH / took_s,
        p50_ms=turns_s[len(turns_s) // 2] * 1000,
        p99_ms=turns_s[len(turns_s) * 99 // 100] * 1000,
        own_cores=(time.process_time() - own_before_s) / took_s,
        redis_cores=(sum(redis.cpu_times()[:2]) - before_s) / took_s,
    )


async def _submit(queue: JobQueue, body: bytes, count: int) -> None:
    tensor = np.frombuffer(body, np.uint8)
    jobs = tuple(Job(uuid, tensor_payload(uuid, tensor)) for uuid in (str(uuid4()) for _ in range(count)))
    _depth, admissions = await queue.submit(
        [Submission(jobs, LONG_S, kept=True)],
        api_id="bench",
        max_queue_depth=MOST,
        max_results=MOST,
        max_batch_size=BATCH,
        batch_s=0.0,
    )
    if admissions != [Admission("accepted")]:
        raise RuntimeError(f"the queue does not take {count} jobs: {admissions}")


async def _serve(queue: JobQueue) -> None:
    """Claim the oldest batch, settle it, and collect the results."""
    claim = await queue.claim(
        uuid4().hex,
        worker_id="bench",
        max_batch_size=BATCH,
        lease_s=LONG_S,
        least_s=0.0,
        max_solo=3,
        max_wait_s=0.0,
        block_s=0.0,
    )
    timing = Timing(0.0, 0.0, 0.0, BATCH, claim.id, "bench")
    settlements = [Settlement(job.uuid, job.api_id, "ok", prediction_value({"sum": 0}, timing)) for job in claim.jobs]
    if await queue.settle(claim.id, settlements, result_ttl_s=LONG_S) != BATCH:
        raise RuntimeError("a batch was not settled whole")
    await queue.drop([job.uuid for job in claim.jobs])
