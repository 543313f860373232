"""What a check of the queue's properties plays in: one queue, and a view of its keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from redis.asyncio import Redis

from errors import DeadlineExceeded, ModelFailed, ServiceError
from jobs import JobQueue
from records import (
    Admission,
    Claim,
    Job,
    Progress,
    Result,
    ReturnKind,
    Settlement,
    Submission,
    Timing,
    Worker,
    WorkerState,
    error_value,
    prediction_value,
)
from tests.clock import let_pass
from tests.test_jobs import Line, job, request

SHORT_S = 0.002


@dataclass
class Scene(Line):
    """A line whose short leases and deadlines end when the check says so.

    redis: for what no command of the queue tells, for making time pass, and for doing damage.
    """

    redis: Redis
    name: str

    @property
    def prefix(self) -> str:
        return f"{{mb:{self.name}}}:"

    async def take(self, count: int = 1, *, n: int = 1024, crash: bool = False) -> Claim:
        """Submit jobs and claim them; after a crash the lease has ended when this returns."""
        await self.submit(request(*(job() for _ in range(count))), depth=10_000)
        return await (self.crash(n=n) if crash else self.claim(n=n))

    async def crash(self, *, n: int = 8, max_solo: int = 3) -> Claim:
        """Claim and never settle."""
        claim = await self.claim("crashed", n=n, lease_s=SHORT_S, max_solo=max_solo)
        await let_pass(self.redis, SHORT_S)
        return claim

    async def submit_against(self, batch_s: float, *, remaining_s: float, workers: int = 1) -> str:
        return (await self.admission(batch_s, remaining_s=remaining_s, workers=workers)).outcome

    async def admission(
        self, batch_s: float, *, remaining_s: float = 30.0, workers: int = 1, depth: int = 100
    ) -> Admission:
        """Submit one job where a full batch of 8 takes so long."""
        _depth, admissions = await self.queue.submit(
            [request(job(), remaining_s=remaining_s)],
            api_id="api",
            max_queue_depth=depth,
            max_results=100,
            max_batch_size=8,
            batch_s=batch_s,
            workers=workers,
        )
        return admissions[0]

    async def fail(self, claim: Claim, *, dead: bool = False, error: ServiceError | None = None) -> int:
        value = error_value(error or ModelFailed("failed"), Timing())
        settlements = [Settlement(one.uuid, "api", "dead" if dead else "error", value) for one in claim.jobs]
        return await self.queue.settle(claim.id, settlements, result_ttl_s=60)

    async def failed_job(self, error: ServiceError) -> Job:
        """Return a job that has got this error."""
        one = job()
        await self.submit(request(one))
        await self.fail(await self.claim(), error=error)
        return one

    async def come_too_late(self, claim: Claim, *, least_s: float = 0.0) -> int:
        value = error_value(DeadlineExceeded("late"), Timing())
        settlements = [Settlement(one.uuid, "api", "late", value) for one in claim.jobs]
        return await self.queue.settle(claim.id, settlements, result_ttl_s=60, least_s=least_s)

    async def release(self, claim: Claim, code: str = "", *, kind: ReturnKind = "release") -> int:
        settlements = [Settlement(one.uuid, "api", kind, code.encode()) for one in claim.jobs]
        return await self.queue.settle(claim.id, settlements, result_ttl_s=60)

    async def answer(self, claim: Claim, word: str, *, ttl_s: float = 60.0) -> int:
        value = prediction_value(word, Timing())
        settlements = [Settlement(one.uuid, "api", "ok", value) for one in claim.jobs]
        return await self.queue.settle(claim.id, settlements, result_ttl_s=ttl_s)

    async def beat(
        self, claim: Claim | None = None, *, worker: str = "worker", state: WorkerState = "busy", lease_s: float = 60.0
    ) -> list[bool]:
        row = Worker(worker, state, 0.0, None, 0.0, "digits")
        uuids = [one.uuid for one in claim.jobs] if claim else []
        return await self.queue.beat(row, lease_s=lease_s, held={claim.id if claim else "-": uuids})

    async def polled(self, claim: Claim) -> list[str | Progress]:
        """Return each job's prediction as it stands in its result, or what is known of it."""
        answers = await self.queue.poll([one.uuid for one in claim.jobs])
        return [one.prediction.decode() if isinstance(one, Result) else one for one in answers]

    async def ask(self, command: str, *values: str | float | bytes) -> Any:
        """Send a plain command about one of the queue's keys, such as "LLEN pending"."""
        execute: Callable[..., Awaitable[Any]] = self.redis.execute_command
        word, key = command.split()
        return await execute(word, self.prefix + key, *values)

    async def now_ms(self) -> int:
        seconds, microseconds = await self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def keys_without_ttl(self) -> set[str]:
        names: list[bytes] = [name async for name in self.redis.scan_iter(self.prefix + "*", count=1000)]
        return {name.decode().removeprefix(self.prefix) for name in names if await self.redis.pttl(name) < 0}


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Scene]:
    """Open a queue of its own; what is broken in it at the end is an AssertionError."""
    name = uuid4().hex
    queue = JobQueue(url, name=name, timeout_s=5)
    redis = Redis.from_url(url)
    try:
        yield Scene(queue, redis, name)

        assert await queue.audit() == []
    finally:
        await queue.close()
        await redis.aclose()


def late_request() -> Submission:
    return request(job(), remaining_s=0.0)
