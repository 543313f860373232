"""The api's side of waiting: one poller a process that wakes the futures of its requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from alarms import Alarms
from errors import (
    DeadlineExceeded,
    ModelUnavailable,
    NotConnected,
    QueueFull,
    RedisAway,
    RedisUnreachable,
    Unavailable,
    from_code,
)
from jobs import MAX_JOBS_PER_CALL, JobQueue
from logs import ids
from outbox import Outbox
from readiness import Readiness
from records import Job, Progress, Result, Submission, Timing, read_result

LISTEN_S = 0.25
"""How long one look at the bell blocks, and so how late an answer can be whose ring was lost."""
LISTEN_FOR_KEPT_S = 0.05
"""The same while somebody waits for a job that another api may have submitted: then that one is rung."""
LAST_LOOK_S = 0.05
"""How long past its deadline a request may ask why it has no result."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits here for its jobs' results.

    over: done when all have been found, or the wait ends. submitted: Redis has been told of it: it may be polled for.
    """

    submission: Submission
    deadline_s: float
    over: asyncio.Future[None]
    found: dict[str, Result] = field(default_factory=dict)
    submitted: bool = False

    def take(self, result: Result) -> None:
        """Take one result in; the first of a job counts."""
        self.found.setdefault(result.uuid, result)
        if len(self.found) == len(self.submission.jobs):
            self.end()

    def end(self) -> None:
        """End the wait."""
        if not self.over.done():
            self.over.set_result(None)

    def fail(self, exc: Exception) -> None:
        """End the wait by an error."""
        if not self.over.done():
            self.over.set_exception(exc)


class Results:
    """Submits jobs and waits for what becomes of them; `run` must be running beside it.

    All waiting shares one bell.
    """

    def __init__(self, queue: JobQueue, readiness: Readiness, outbox: Outbox, *, api_id: str) -> None:
        self._alarms = Alarms()
        self._queue = queue
        self._readiness = readiness
        self._outbox = outbox
        self._api_id = api_id
        self._outstanding: dict[str, list[_Waiting]] = {}  # of one job several with the same Idempotency-Key
        self._kept = 0

    async def ask(self, jobs: Sequence[Job], *, timeout_s: float) -> list[Result]:
        """Submit the jobs of one request, wait for their results and collect them.

        A job without a result in time is cancelled and comes back with DeadlineExceeded, or with the error of its last
        try.
        Raises QueueFull or Unavailable where the request was not admitted.
        """
        submission, uuids = Submission(tuple(jobs), timeout_s), [job.uuid for job in jobs]
        try:
            found = await self._submit_and_wait(submission, wait_s=timeout_s)
            results = await self._with_reasons(submission, found)
        except QueueFull:  # nothing of it is there
            raise
        except BaseException:  # nobody waits any more
            self._outbox.drop(uuids)
            raise
        if None in found:
            self._outbox.drop(uuids)
        else:
            self._outbox.collected(uuids)
        return results

    async def ask_again(self, jobs: Sequence[Job], *, timeout_s: float) -> list[Result]:
        """Submit or join jobs that may have been asked for before, and leave them for whoever asks again.

        Nothing is dropped, whatever becomes of this request: another may wait for the same jobs, or have been told to
        come back for them. Raises as `ask` does.
        """
        submission = Submission(tuple(jobs), timeout_s, kept=True)
        return await self._with_reasons(submission, await self._submit_and_wait(submission, wait_s=timeout_s))

    async def ask_and_keep(self, jobs: Sequence[Job], *, timeout_s: float, wait_s: float) -> list[Result] | None:
        """Submit or join jobs whose results are kept; return them where all came within `wait_s`, else None.

        Raises QueueFull or Unavailable where the request was not admitted.
        """
        submission = Submission(tuple(jobs), timeout_s, kept=True)
        if wait_s <= 0:
            await self._outbox.admit(submission)
            return None
        results = await self._submit_and_wait(submission, wait_s=wait_s)
        found = [result for result in results if result is not None]
        return found if len(found) == len(jobs) else None

    def collected(self, results: Sequence[Result]) -> None:
        """Have kept results removed: they have been answered, and nobody knows of them who could come back."""
        self._outbox.collected([one.uuid for one in results])

    async def run(self) -> None:
        """Listen for rings and wake who waits, until cancelled."""
        polled_at_s = 0.0
        while True:
            try:
                listen_s = LISTEN_FOR_KEPT_S if self._kept else LISTEN_S
                without_copy = [
                    token for token in await self._queue.listen(self._api_id, listen_s) if not self._wake(token)
                ]
                if without_copy:
                    uuids = [token.decode(errors="replace") for token in without_copy]
                    await self._poll([uuid for uuid in uuids if uuid in self._outstanding])
                if time.monotonic() - polled_at_s >= listen_s:
                    await self._poll(self._unanswered())
                    polled_at_s = time.monotonic()
                if self._readiness.is_abandoned:
                    self._end_all()
            except RedisAway as exc:
                self._readiness.redis_failed(exc)
                polled_at_s = 0.0  # a ring may have been lost with the connection
                await asyncio.sleep(0.05)

    async def _submit_and_wait(self, submission: Submission, *, wait_s: float) -> list[Result | None]:
        """Return each job's result, None where there is none in time."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(submission, loop.time() + submission.remaining_s, loop.create_future())
        for job in submission.jobs:
            self._outstanding.setdefault(job.uuid, []).append(waiting)
        self._kept += submission.kept
        call_off = self._alarms.set(wait_s, waiting.end)
        try:
            if submission.kept:
                await self._admit_kept(waiting)
            else:
                self._outbox.post(submission, waiting.over, lambda refusal: self._admitted(waiting, refusal))
            await waiting.over
        finally:
            call_off()
            self._kept -= submission.kept
            waiting.over.cancel()  # whoever was cancelled: nobody waits any more
            for job in submission.jobs:
                self._forget(job.uuid, waiting)
        return [waiting.found.get(job.uuid) for job in submission.jobs]

    async def _admit_kept(self, waiting: _Waiting) -> None:
        """Admit what is promised for later, and look for an answer that was given before.

        Raises RedisAway: the promise needs the reply.
        """
        try:
            await self._outbox.admit(waiting.submission)
        except RedisAway as exc:
            self._readiness.redis_failed(exc)
            raise
        waiting.submitted = True
        await self._poll([job.uuid for job in waiting.submission.jobs])

    def _admitted(self, waiting: _Waiting, refusal: Exception | None) -> None:
        """Go on waiting, or fail. A lost reply counts as accepted, since polling will tell; what was not sent fails."""
        if isinstance(refusal, RedisAway):
            self._readiness.redis_failed(refusal)
        if refusal and (isinstance(refusal, NotConnected) or not isinstance(refusal, RedisUnreachable)):
            waiting.fail(refusal)
        waiting.submitted = True

    async def _with_reasons(self, submission: Submission, found: list[Result | None]) -> list[Result]:
        """Put an error in the place of each result that there is none of."""
        if None not in found:
            return found  # type: ignore[return-value]  # all are there
        late = [job.uuid for job, result in zip(submission.jobs, found, strict=True) if result is None]
        codes = iter(await self._last_codes(late))
        untried = self._why_untried()
        return [
            result or overdue(job.uuid, next(codes) or untried)
            for job, result in zip(submission.jobs, found, strict=True)
        ]

    def _why_untried(self) -> str:
        """Return the error code of jobs that no model has tried; "" where there was only no time."""
        if not self._readiness.workers:
            return Unavailable.code
        return ModelUnavailable.code if self._readiness.model_is_down else ""

    def _end_all(self) -> None:
        """End all waits: there is no batcher, and none has come."""
        for waitings in self._outstanding.values():
            for waiting in waitings:
                waiting.end()

    async def _last_codes(self, uuids: list[str]) -> list[str]:
        """Ask why jobs are late, but not for long: so are their answers."""
        try:
            async with asyncio.timeout(LAST_LOOK_S):
                return await self._queue.last_codes(uuids)
        except (TimeoutError, RedisAway):
            return [""] * len(uuids)

    def _wake(self, token: bytes) -> bool:
        """Hand over the copy of a result that a ring carries; False where it carries none."""
        if b" " not in token:
            return False
        try:
            self._finish(read_result(token))
        except (ValueError, TypeError, LookupError):  # of another version, or broken: what it was for is polled for
            log.warning("a ring cannot be read", extra={"bytes": len(token)})
        return True

    def _finish(self, result: Result) -> None:
        for waiting in self._outstanding.get(result.uuid, ()):
            waiting.take(result)

    def _forget(self, uuid: str, waiting: _Waiting) -> None:
        others = self._outstanding[uuid]
        others.remove(waiting)
        if not others:
            del self._outstanding[uuid]

    def _unanswered(self) -> list[str]:
        return [
            uuid
            for uuid, waiting in self._outstanding.items()
            if any(one.submitted and uuid not in one.found for one in waiting)
        ]

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
        last = [max(all_of_it, key=_deadline_of) for uuid in uuids if (all_of_it := self._outstanding.get(uuid))]
        wanted = set(uuids)
        again = [
            Submission((job,), waiting.deadline_s - now_s)
            for waiting in dict.fromkeys(last)
            for job in waiting.submission.jobs
            if job.uuid in wanted and waiting.deadline_s > now_s
        ]
        if again:
            told = {"size": len(again), "jobs": ids(one.jobs[0].uuid for one in again)}
            log.warning("jobs were forgotten by Redis and are submitted again", extra=told)
            await self._outbox.send(again)


def _deadline_of(waiting: _Waiting) -> float:
    return waiting.deadline_s


def overdue(uuid: str, last_code: str) -> Result:
    """Return the result of a job that has none in time; last_code: of its last try, "" where there was none."""
    if last_code:
        what = "there was no batcher" if last_code == Unavailable.code else "the model was not available"
        return Result(uuid, b"null", from_code(last_code, f"{what} in time"), Timing())
    return Result(uuid, b"null", DeadlineExceeded("no result in time"), Timing())
