"""What goes from an api process to the queue: submits and drops, each gathered into one call at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from errors import QueueFull, RedisAway, Unavailable
from jobs import MAX_JOBS_PER_CALL, JobQueue
from readiness import Readiness
from records import Admission, Submission

REFUSE_S = 0.1
"""How long after a refusal the like is refused without asking Redis."""
TRY_EVERY_S = 1.0
"""How often one submission is tried while Redis is out of memory; the others are refused at once."""
COLLECT_S = 0.02
"""How long answered results gather before one call removes them all."""
FLIGHT_BYTES = 16 * 1024 * 1024
"""The longest call of several requests: what is packed for it is a copy, and what comes meanwhile waits for it."""


@dataclass(slots=True)
class _Posted:
    """A submission on its way.

    over: done once nobody waits for it. admitted: is told why it was not admitted, None where it was.
    """

    submission: Submission
    over: asyncio.Future[Any]
    admitted: Callable[[Exception | None], None]


class Outbox:
    """Submits and drops jobs: what comes while a call is on its way goes with the next.

    arriving: tells how many images are still being decoded; each submit says so to the batchers.
    """

    def __init__(
        self,
        queue: JobQueue,
        readiness: Readiness,
        *,
        api_id: str,
        max_queue_depth: int,
        max_results: int,
        max_batch_size: int,
        arriving: Callable[[], int],
    ) -> None:
        self._queue = queue
        self._readiness = readiness
        self._api_id = api_id
        self._max_queue_depth = max_queue_depth
        self._max_results = max_results
        self._max_batch_size = max_batch_size
        self._arriving = arriving
        self._to_submit: list[_Posted] = []
        self._to_drop: list[str] = []
        self._submitting: asyncio.Task[None] | None = None
        self._dropping: asyncio.Task[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._refused_until_s = self._refused_wait_s = self._room_in_s = 0.0
        self._no_memory = False
        self._try_again_s = 0.0

    def require_room(self, wait_s: float) -> None:
        """Refuse at once, before a body is read, what would be refused as another has just been.

        That is a request that could wait no longer than it, and while Redis is out of memory all but one a second.
        Raises QueueFull, Unavailable.
        """
        if wait_s <= self._refused_wait_s and time.monotonic() < self._refused_until_s:
            raise _full(self._room_in_s)
        if self._no_memory:
            now_s = time.monotonic()
            if now_s < self._try_again_s:
                raise _out_of_memory()
            self._try_again_s = now_s + TRY_EVERY_S

    async def admit(self, submission: Submission) -> None:
        """Submit the jobs of one request, all or none, and wait until they are in.

        Raises QueueFull, Unavailable where Redis is out of memory, RedisAway; RedisUnreachable where no reply came.
        """
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def admitted(refusal: Exception | None) -> None:
            if refusal:
                over.set_exception(refusal)
            else:
                over.set_result(None)

        self.post(submission, over, admitted)
        await over

    def post(
        self, submission: Submission, over: asyncio.Future[Any], admitted: Callable[[Exception | None], None]
    ) -> None:
        """Submit the jobs of one request, all or none, without waiting for it.

        over: once it is done nobody waits any more, and what was admitted is dropped, unless it is kept.
        admitted: is called, unless it is over by then, with None or with what `admit` raises.
        """
        self._to_submit.append(_Posted(submission, over, admitted))
        if self._submitting is None:
            self._submitting = asyncio.create_task(self._submit_all())

    async def send(self, submissions: Sequence[Submission]) -> list[Admission]:
        """Submit at once, without waiting for others."""
        _depth, admissions = await self._queue.submit(
            submissions,
            api_id=self._api_id,
            max_queue_depth=self._max_queue_depth,
            max_results=self._max_results,
            max_batch_size=self._max_batch_size,
            batch_s=self._readiness.batch_s,
            workers=len(self._readiness.workers),
            arriving=self._arriving(),
        )
        return admissions

    def drop(self, uuids: Sequence[str]) -> None:
        """Have every trace of these jobs removed: nobody waits for them any more, and nobody may come back for them."""
        self._to_drop.extend(uuids)
        if self._dropping is None:
            self._dropping = asyncio.create_task(self._drop_all())

    def collected(self, uuids: Sequence[str]) -> None:
        """Have the results of these jobs removed, soon: they have been answered, and wait in no line."""
        self._to_drop.extend(uuids)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(COLLECT_S, self._sweep_up)

    def _sweep_up(self) -> None:
        self._sweep = None
        self.drop(())

    async def close(self) -> None:
        """Send the drops that are still to be sent."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep_up()
        if self._dropping is not None:
            await self._dropping

    async def _submit_all(self) -> None:
        """Send what has gathered, and what gathers meanwhile, one call at a time."""
        try:
            while self._to_submit:
                if flight := self._next_flight():
                    await self._submit_flight(flight)
        finally:
            self._submitting = None

    async def _submit_flight(self, flight: Sequence[_Posted]) -> None:
        try:
            admissions = await self.send([posted.submission for posted in flight])
        except Exception as exc:  # noqa: BLE001  # each request answers for itself
            for posted in flight:
                if not posted.over.done():
                    posted.admitted(exc)
            return
        for posted, admission in zip(flight, admissions, strict=True):
            if posted.over.done():  # while it was on its way: its first drop may have been faster
                if not posted.submission.kept:  # what is kept may be another's too
                    self.drop([job.uuid for job in posted.submission.jobs])
            else:
                posted.admitted(self._refusal(posted.submission, admission))

    def _refusal(self, submission: Submission, admission: Admission) -> Exception | None:
        self._no_memory = admission.outcome == "no_memory"
        if admission.outcome == "accepted":
            return None
        now_s = time.monotonic()
        if self._no_memory:
            self._try_again_s = now_s + TRY_EVERY_S
            return _out_of_memory()
        if not submission.kept:
            self._refused_until_s = now_s + REFUSE_S
            self._refused_wait_s = submission.remaining_s
            self._room_in_s = admission.room_in_s
        return _full(admission.room_in_s)

    def _next_flight(self) -> list[_Posted]:
        self._to_submit = [posted for posted in self._to_submit if not posted.over.done()]
        jobs = count = size_bytes = 0
        for posted in self._to_submit:
            jobs += len(posted.submission.jobs)
            for job in posted.submission.jobs:
                size_bytes += len(job.rest)  # the short ones of a call are no more by themselves
            if jobs > MAX_JOBS_PER_CALL or (count and size_bytes > FLIGHT_BYTES):
                break
            count += 1
        flight, self._to_submit = self._to_submit[:count], self._to_submit[count:]
        return flight

    async def _drop_all(self) -> None:
        try:
            while self._to_drop:
                uuids, self._to_drop = self._to_drop[:MAX_JOBS_PER_CALL], self._to_drop[MAX_JOBS_PER_CALL:]
                try:
                    await self._queue.drop(uuids)
                except RedisAway as exc:  # their time to live, or their deadline, clears them away
                    self._readiness.redis_failed(exc)
        finally:
            self._dropping = None


def _full(room_in_s: float) -> QueueFull:
    return QueueFull("the queue is full; try again later", retry_after_s=max(1.0, room_in_s))


def _out_of_memory() -> Unavailable:
    return Unavailable("Redis is out of memory; try again later", retry_after_s=TRY_EVERY_S)
