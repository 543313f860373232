"""The api's side of waiting: one poller a process that wakes the futures of its requests."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from errors import DeadlineExceeded, QueueFull, RedisUnreachable, Unavailable, from_code
from jobs import MAX_JOBS_PER_CALL, JobQueue
from readiness import Readiness
from records import Admission, Job, Progress, Result, Submission, Timing, read_result

LISTEN_S = 0.25
"""How long one look at the bell blocks, and so how late an answer can be whose ring was lost."""
PASSING = (502, 503, 504)
"""Statuses of errors that another try may mend."""
REFUSE_S = 0.1
"""How long after a refusal the like is refused without asking Redis."""
LAST_LOOK_S = 0.05
"""How long past its deadline a request may ask why it has no result."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Outstanding:
    """A job that somebody here waits for. submitted: Redis has been told of it, so it may be polled for."""

    job: Job
    future: asyncio.Future[Result]
    deadline_s: float
    submitted: bool = False


class Results:
    """Submits jobs and waits for what becomes of them; `run` must be running beside it.

    Submits share one call while another is on its way, as do drops; all waiting shares one bell.
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
    ) -> None:
        self._queue = queue
        self._readiness = readiness
        self._api_id = api_id
        self._max_queue_depth = max_queue_depth
        self._max_results = max_results
        self._max_batch_size = max_batch_size
        self._outstanding: dict[str, _Outstanding] = {}
        self._to_submit: list[tuple[Submission, asyncio.Future[Admission]]] = []
        self._to_drop: list[str] = []
        self._submitting: asyncio.Task[None] | None = None
        self._dropping: asyncio.Task[None] | None = None
        self._depth = 0
        self._refused_until_s = self._refused_wait_s = 0.0

    async def ask(self, jobs: Sequence[Job], *, timeout_s: float) -> list[Result]:
        """Submit the jobs of one request, wait for their results and collect them.

        A job without a result in time is cancelled and comes back with DeadlineExceeded, or with the error of its last
        try.
        Raises QueueFull or Unavailable where the request was not admitted.
        """
        try:
            return await self._ask(Submission(tuple(jobs), timeout_s))
        finally:  # answered, refused, or nobody waits any more
            self.drop([job.uuid for job in jobs])

    async def ask_again(self, jobs: Sequence[Job], *, timeout_s: float) -> list[Result]:
        """Submit or join jobs that may have been asked for before, and leave their results for whoever asks again.

        Only what another try may mend is dropped: it is run anew then. Raises as `ask` does.
        """
        results = await self._ask(Submission(tuple(jobs), timeout_s, kept=True))
        self.drop([one.uuid for one in results if one.error is not None and one.error.http_status in PASSING])
        return results

    async def _ask(self, submission: Submission) -> list[Result]:
        results = await self._submit_and_wait(submission, wait_s=submission.remaining_s)
        late = [job.uuid for job, result in zip(submission.jobs, results, strict=True) if result is None]
        codes = iter(await self._last_codes(late) if late else [])
        return [result or overdue(job.uuid, next(codes)) for job, result in zip(submission.jobs, results, strict=True)]

    async def ask_and_keep(self, jobs: Sequence[Job], *, timeout_s: float, wait_s: float) -> list[Result] | None:
        """Submit jobs whose results are kept; return them where all came within `wait_s`, else None.

        Raises QueueFull or Unavailable where the request was not admitted.
        """
        submission = Submission(tuple(jobs), timeout_s, kept=True)
        if wait_s <= 0:
            await self._admit(submission)
            return None
        results = await self._submit_and_wait(submission, wait_s=wait_s)
        found = [result for result in results if result is not None]
        if len(found) < len(jobs):
            return None
        self.drop([job.uuid for job in jobs])
        return found

    def drop(self, uuids: Sequence[str]) -> None:
        """Have every trace of these jobs removed, soon."""
        self._to_drop.extend(uuids)
        if self._dropping is None:
            self._dropping = asyncio.create_task(self._drop_all())

    async def close(self) -> None:
        """Send the drops that are still to be sent."""
        if self._dropping is not None:
            await self._dropping

    async def run(self) -> None:
        """Listen for rings and wake who waits, until cancelled."""
        polled_at_s = 0.0
        while True:
            try:
                without_copy = [
                    token for token in await self._queue.listen(self._api_id, LISTEN_S) if not self._wake(token)
                ]
                if without_copy:
                    await self._poll([uuid for token in without_copy if (uuid := token.decode()) in self._outstanding])
                if time.monotonic() - polled_at_s >= LISTEN_S:
                    await self._poll([uuid for uuid, waiting in self._outstanding.items() if waiting.submitted])
                    polled_at_s = time.monotonic()
            except Unavailable as exc:
                self._readiness.redis_failed(exc)
                polled_at_s = 0.0  # a ring may have been lost with the connection
                await asyncio.sleep(0.05)

    async def _submit_and_wait(self, submission: Submission, *, wait_s: float) -> list[Result | None]:
        """Return each job's result, None where there is none in time."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        waiting = [
            _Outstanding(job, loop.create_future(), loop.time() + submission.remaining_s) for job in submission.jobs
        ]
        self._outstanding.update((one.job.uuid, one) for one in waiting)
        try:
            await self._admit_in_time(submission, until_s)
            for one in waiting:
                one.submitted = True
            if submission.kept:  # it may have been answered before
                await self._poll([job.uuid for job in submission.jobs])
            # Unlike a timeout around the futures, wait leaves those that are not done as they are.
            await asyncio.wait([one.future for one in waiting], timeout=max(0.0, until_s - loop.time()))
        finally:
            for one in waiting:
                self._outstanding.pop(one.job.uuid, None)
        return [one.future.result() if one.future.done() else None for one in waiting]

    async def _admit_in_time(self, submission: Submission, until_s: float) -> None:
        """Admit a request that waits: a lost reply counts as accepted, since polling will tell.

        Whoever is promised a result for later must have been admitted: there it raises RedisUnreachable.
        """
        try:
            async with asyncio.timeout_at(None if submission.kept else until_s):
                await self._admit(submission)
        except RedisUnreachable as exc:
            self._readiness.redis_failed(exc)
            if submission.kept:
                raise
        except TimeoutError:  # not even admitted: the wait is over
            pass

    async def _last_codes(self, uuids: list[str]) -> list[str]:
        """Ask why jobs are late, but not for long: so are their answers."""
        try:
            async with asyncio.timeout(LAST_LOOK_S):
                return await self._queue.last_codes(uuids)
        except (TimeoutError, Unavailable):
            return [""] * len(uuids)

    async def _admit_or_doubt(self, submission: Submission) -> None:
        """Admit a request that waits: a lost reply counts as accepted, since polling will tell."""
        try:
            await self._admit(submission)
        except RedisUnreachable as exc:
            self._readiness.redis_failed(exc)

    async def _admit(self, submission: Submission) -> None:
        admitted: asyncio.Future[Admission] = asyncio.get_running_loop().create_future()
        self._to_submit.append((submission, admitted))
        if self._submitting is None:
            self._submitting = asyncio.create_task(self._submit_all())
        admission = await admitted
        if admission == "full":
            if not submission.kept:
                self._refused_until_s = time.monotonic() + REFUSE_S
                self._refused_wait_s = submission.remaining_s
            raise self._full()
        if admission == "no_memory":
            raise Unavailable("Redis is out of memory; try again later", retry_after_s=self._drained_in_s())

    async def _submit_all(self) -> None:
        """Send what has gathered, and what gathers meanwhile, one call at a time."""
        try:
            while self._to_submit:
                if flight := self._next_flight():
                    await self._submit_flight(flight)
        finally:
            self._submitting = None

    async def _submit_flight(self, flight: Sequence[tuple[Submission, asyncio.Future[Admission]]]) -> None:
        try:
            admissions = await self._send([submission for submission, _ in flight])
        except Exception as exc:  # noqa: BLE001  # each request answers for itself
            for _, admitted in flight:
                if not admitted.done():
                    admitted.set_exception(exc)
            return
        for (submission, admitted), admission in zip(flight, admissions, strict=True):
            if admitted.cancelled():  # its wait ended while it was on its way: its first drop may have been faster
                self.drop([job.uuid for job in submission.jobs])
            else:
                admitted.set_result(admission)

    def _next_flight(self) -> list[tuple[Submission, asyncio.Future[Admission]]]:
        self._to_submit = [(submission, admitted) for submission, admitted in self._to_submit if not admitted.done()]
        jobs = count = 0
        for submission, _ in self._to_submit:
            jobs += len(submission.jobs)
            if jobs > MAX_JOBS_PER_CALL:
                break
            count += 1
        flight, self._to_submit = self._to_submit[:count], self._to_submit[count:]
        return flight

    async def _send(self, submissions: Sequence[Submission]) -> list[Admission]:
        self._depth, admissions = await self._queue.submit(
            submissions,
            api_id=self._api_id,
            max_queue_depth=self._max_queue_depth,
            max_results=self._max_results,
            max_batch_size=self._max_batch_size,
            batch_s=self._readiness.batch_s,
        )
        return admissions

    async def _drop_all(self) -> None:
        try:
            while self._to_drop:
                uuids, self._to_drop = self._to_drop[:MAX_JOBS_PER_CALL], self._to_drop[MAX_JOBS_PER_CALL:]
                try:
                    await self._queue.drop(uuids)
                except Unavailable as exc:  # their time to live, or their deadline, clears them away
                    self._readiness.redis_failed(exc)
        finally:
            self._dropping = None

    def require_room(self, wait_s: float) -> None:
        """Refuse at once, before a body is read, what could wait no longer than another that has just been refused.

        Raises QueueFull.
        """
        if wait_s <= self._refused_wait_s and time.monotonic() < self._refused_until_s:
            raise self._full()

    def _full(self) -> QueueFull:
        return QueueFull("the queue is full; try again later", retry_after_s=self._drained_in_s())

    def _drained_in_s(self) -> float:
        """Return when the queue, as it stands, will have been worked off."""
        return max(1.0, math.ceil(self._depth / self._max_batch_size) * self._readiness.batch_s)

    def _wake(self, token: bytes) -> bool:
        """Hand over the copy of a result that a ring carries; False where it carries none."""
        if b" " not in token:
            return False
        try:
            self._finish(read_result(token))
        except (ValueError, KeyError):  # of another version, or mixed up: what it was for is polled for
            log.warning("a ring cannot be read")
        return True

    def _finish(self, result: Result) -> None:
        waiting = self._outstanding.get(result.uuid)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(result)

    async def _poll(self, uuids: Sequence[str]) -> None:
        for start in range(0, len(uuids), MAX_JOBS_PER_CALL):
            some = uuids[start : start + MAX_JOBS_PER_CALL]
            forgotten = []
            for uuid, answer in zip(some, await self._queue.poll(some), strict=True):
                if isinstance(answer, Result):
                    self._finish(answer)
                elif answer is Progress.UNKNOWN:
                    forgotten.append(uuid)
            await self._submit_again(forgotten)

    async def _submit_again(self, uuids: Sequence[str]) -> None:
        """Submit what Redis has forgotten: this process still holds it."""
        now_s = asyncio.get_running_loop().time()
        found = [self._outstanding[uuid] for uuid in uuids if uuid in self._outstanding]
        again = [Submission((one.job,), one.deadline_s - now_s) for one in found if one.deadline_s > now_s]
        if again:
            log.warning("%d jobs were forgotten by Redis and are submitted again", len(again))
            await self._send(again)


def overdue(uuid: str, last_code: str) -> Result:
    """Return the result of a job that has none in time; last_code: of its last try, "" where there was none."""
    if last_code:
        return Result(uuid, b"null", from_code(last_code, "the model was not available in time"), Timing())
    return Result(uuid, b"null", DeadlineExceeded("no result in time; the job has been cancelled"), Timing())
