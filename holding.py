"""One worker's side of the queue: what it claims, keeps, settles and gives back, whatever Redis does meanwhile."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from secrets import token_hex

from errors import RedisAway, ServiceError
from jobs import JobQueue
from logs import ids
from records import Claim, ClaimedJob, Settlement, Timing, Worker
from verdicts import failed

RETRY_S = (0.05, 0.1, 0.2, 0.5)
"""Pauses between tries while Redis or the model is away; the last one repeats."""
UNKNOWN_API = "-"
"""What CLAIM names as the api of a job whose row could not be read."""
TELL_EVERY_S = 1.0
"""How long after a warning that Redis is away the next one may come."""

log = logging.getLogger(__name__)


class Holding:
    """What one worker holds, claim by claim.

    model_timeout_s: how long its leases are extended while nothing is settled. describe: gives the worker's row.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        worker_id: str,
        lease_s: float,
        max_solo: int,
        model_timeout_s: float,
        result_ttl_s: float,
        describe: Callable[[], Worker],
    ) -> None:
        self._queue = queue
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._max_solo = max_solo
        self._model_timeout_s = model_timeout_s
        self._result_ttl_s = result_ttl_s
        self._describe = describe
        self._held: dict[str, dict[str, ClaimedJob]] = {}
        self._moved_on_s = self._least_s = 0.0
        self._outage = Outage()

    @property
    def is_empty(self) -> bool:
        """Whether it holds no job."""
        return not self._held

    async def claim(
        self,
        stopping: asyncio.Event,
        *,
        max_batch_size: int,
        least_s: float,
        max_wait_s: float,
        patience_s: float,
        block_s: float,
    ) -> Claim | None:
        """Claim under a new id, and under the same one until a reply has come; None where told to stop first."""
        claim_id, holding, self._least_s = token_hex(16), not self.is_empty, least_s
        for pause_s in pauses():
            try:
                if self._outage.lasts:
                    await self._queue.check_fitness()
                claim = await self._queue.claim(
                    claim_id,
                    worker_id=self._worker_id,
                    max_batch_size=max_batch_size,
                    lease_s=self._lease_s,
                    least_s=least_s,
                    max_solo=self._max_solo,
                    max_wait_s=max_wait_s,
                    patience_s=patience_s,
                    block_s=block_s,
                    holding=holding,
                )
            except RedisAway as exc:
                if stopping.is_set():
                    break
                self._outage.begin(exc)
                await sleep_unless(stopping, pause_s)
                block_s = 0.0
                continue
            self._outage.end()
            if claim.jobs:
                self._take(claim)
                if pause_s != RETRY_S[0]:  # the first reply was lost, and the leases have run since then
                    await self.beat_if_possible()
            return claim
        return None

    def _take(self, claim: Claim) -> None:
        if self.is_empty:
            self._moved_on_s = time.monotonic()
        self._held[claim.id] = held = {job.uuid: job for job in claim.jobs}
        if claim.suspect:
            log.warning("jobs of a worker that died are run again", extra=_named(claim.id, held))
        if torn := [job.uuid for job in claim.jobs if job.api_id == UNKNOWN_API]:
            log.warning("jobs whose row in Redis could not be read are run as new ones", extra=_named(claim.id, torn))

    async def settle(self, claim_id: str, settlements: Sequence[Settlement]) -> None:
        """Settle, again and again while Redis is away and somebody may still wait for the answer."""
        jobs = self._held[claim_id]
        give_up_s = time.monotonic() + max(jobs[one.uuid].remaining_s for one in settlements)
        for pause_s in pauses():
            try:
                await self._queue.settle(claim_id, settlements, result_ttl_s=self._result_ttl_s, least_s=self._least_s)
                break
            except RedisAway as exc:
                if time.monotonic() > give_up_s:
                    late = _named(claim_id, [one.uuid for one in settlements])
                    log.warning("results found no Redis in time", extra={**late, "reason": str(exc.__cause__ or exc)})
                    break
                await asyncio.sleep(pause_s)
        for one in settlements:
            jobs.pop(one.uuid, None)
        if not jobs:
            self._held.pop(claim_id, None)
        self._moved_on_s = time.monotonic()

    def moved_on(self) -> None:
        """Note that a call has ended, though nothing was settled: what is held is kept as long again."""
        self._moved_on_s = time.monotonic()

    async def fail(self, claim_id: str, error: ServiceError) -> None:
        """Give what is left of a claim an error."""
        if jobs := self._held.get(claim_id):
            await self.settle(claim_id, [failed(job, error, Timing(job.queued_s)) for job in jobs.values()])

    async def beat_if_possible(self, queue: JobQueue | None = None) -> None:
        """Say that this worker lives and extend its leases; a Redis that is away hears the next beat.

        queue: of the thread that asks, if that is not the one of the loop.
        """
        try:
            await self._beat(queue or self._queue)
        except RedisAway as exc:
            log.debug("a beat was not heard", extra={"reason": str(exc.__cause__ or exc)})

    async def _beat(self, queue: JobQueue) -> None:
        """Publish the worker's row; extend its leases while the running call is younger than it may become."""
        young = time.monotonic() - self._moved_on_s < self._model_timeout_s + self._lease_s
        # What is gone through may change meanwhile, by another thread: the copies are made in one step each.
        held = {claim_id: list(jobs) for claim_id, jobs in self._held.copy().items()} if young else {}
        await queue.beat(self._describe(), lease_s=self._lease_s, held=held)

    async def leave(self) -> None:
        """Give back what is held, without counting it as a death, and take this worker off the list.

        Its row must say that it is gone.
        """
        for claim_id, jobs in list(self._held.items()):
            log.warning("jobs given back: this worker leaves", extra=_named(claim_id, jobs))
            await self._give_back(claim_id, jobs.values())
        await self.beat_if_possible()

    async def _give_back(self, claim_id: str, jobs: Iterable[ClaimedJob]) -> None:
        """Give jobs back; a second time where the connection is lost just then."""
        settlements = [Settlement(job.uuid, job.api_id, "release", b"") for job in jobs]
        for pause_s in RETRY_S[:2]:
            try:
                await self._queue.settle(claim_id, settlements, result_ttl_s=self._result_ttl_s)
            except RedisAway as exc:
                reason = exc.__cause__ or exc
                await asyncio.sleep(pause_s)
            else:
                return
        left = _named(claim_id, [one.uuid for one in settlements])
        log.warning("jobs cannot be given back: their leases end by themselves", extra={**left, "reason": str(reason)})


def _named(claim_id: str, uuids: Collection[str]) -> dict[str, object]:
    return {"claim_id": claim_id, "size": len(uuids), "jobs": ids(uuids)}


class Outage:
    """Tells the log that Redis is away, once for each reason and at most once a second, and that it is back."""

    def __init__(self) -> None:
        self.lasts = False
        self._reason = ""
        self._told_s = -math.inf

    def begin(self, exc: RedisAway) -> None:
        """Note that a command failed."""
        self.lasts = True
        reason, now_s = str(exc.__cause__ or exc), time.monotonic()
        if reason != self._reason and now_s - self._told_s >= TELL_EVERY_S:
            log.warning("waiting for Redis", extra={"reason": reason})
            self._reason, self._told_s = reason, now_s

    def end(self) -> None:
        """Note that a command was carried out."""
        if self.lasts and self._reason:
            log.info("Redis is back")
        self.lasts, self._reason = False, ""


def pauses() -> Iterable[float]:
    """Yield how long to pause after each try."""
    yield from RETRY_S
    while True:
        yield RETRY_S[-1]


async def sleep_unless(stopping: asyncio.Event, pause_s: float) -> None:
    """Sleep, but not on when told to stop."""
    try:
        async with asyncio.timeout(pause_s):
            await stopping.wait()
    except TimeoutError:
        pass


async def done_unless(stopping: asyncio.Event, task: asyncio.Task[None]) -> bool:
    """Wait for a task; when told to stop, cancel it and return False."""
    told = asyncio.create_task(stopping.wait())
    await asyncio.wait({told, task}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not task.done():
        task.cancel()
        return False
    return True
