"""One model's part of an api process, and the way of every request through it, whichever front it came to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from uuid import uuid4

from asgi import Incoming
from bodies import Upload, read_body
from budget import ByteBudget, Share
from config import Settings
from decoding import Decoder, Threads
from errors import DeadlineExceeded, NotFound, RedisAway, ServiceError
from ids import job_uuids
from inputs import ModelInput
from intake import Intake
from jobs import JobQueue
from looks import ApiProcess, Look
from metrics import Metrics
from outbox import Outbox
from prefer import NO_PREFERENCES, Preferences
from presence import Presence
from publishing import Publisher
from readiness import Readiness, override_input
from records import LONG_BYTES, Job, Result
from results import Results
from tracing import Tracing

READ_AT_ONCE = 2
"""Long bodies of other protocols that are read at once: more take memory, but no less time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The images of a request as jobs, or why they cannot be. jobs: those that can; decode_s: what that took."""

    each: list[Job | ServiceError]
    jobs: list[Job]
    decode_s: float


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of the images of a request, in their order; decode_s: what it took to prepare them."""

    each: list[Result | ServiceError]
    decode_s: float


class Service:
    """Everything one api process holds of a model while it runs.

    budget: its part of what the process may hold. threads: shared by all models. tracing: None: traces are off.
    """

    def __init__(
        self, settings: Settings, *, budget: ByteBudget, threads: Threads, tracing: Tracing | None = None
    ) -> None:
        self.tracing = tracing
        self.settings = settings
        self.budget = budget
        self.metrics = Metrics(on=settings.metrics)
        self.queue = JobQueue(
            settings.redis_url,
            name=settings.queue_name,
            timeout_s=settings.redis_timeout_s,
            on_reply=self.metrics.redis_replied,
        )
        self.readiness = Readiness(
            self.queue,
            worker_timeout_s=settings.worker_timeout_s,
            override=override_input(
                shape=settings.input_shape, dtype=settings.input_dtype, accepts=settings.accepts, fit=settings.fit
            ),
        )
        api_id = uuid4().hex[:12]
        self.outbox = Outbox(
            self.queue,
            self.readiness,
            api_id=api_id,
            max_queue_depth=settings.max_queue_depth,
            max_results=settings.max_results,
            max_batch_size=settings.max_batch_size,
            arriving=lambda: self._decoding,
        )
        self._decoding = 0
        self.reading = asyncio.Semaphore(READ_AT_ONCE)
        self.results = Results(self.queue, self.readiness, self.outbox, api_id=api_id)
        self.presence = Presence()
        decoder = Decoder(threads, formats=settings.image_formats, max_pixels=settings.max_pixels)
        self.intake = Intake(decoder, near=settings.decode_in == "api")
        self.publisher = Publisher(
            self.queue,
            self.metrics,
            process_id=api_id,
            row=lambda: ApiProcess(self.metrics.in_progress, self.budget.held_bytes).row(),
        )

    async def run(self) -> None:
        """Watch Redis and listen for results, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.readiness.run())
            tasks.create_task(self.results.run())
            if self.metrics.on:
                tasks.create_task(self.publisher.run())

    async def close(self) -> None:
        """Send what is still to be sent to Redis, and give back connections."""
        await self.outbox.close()
        if self.metrics.on:
            await self.publisher.close()
        await self.queue.close()

    def require_counts(self) -> None:
        """Look whether this process counts what it does.

        Raises NotFound.
        """
        if not self.metrics.on:
            raise NotFound("nothing is counted here: MICROBATCH_METRICS is off")

    async def look(self) -> Look | None:
        """Return how the queue stands, this process's last counts included; None where Redis does not answer.

        Raises NotFound where nothing is counted.
        """
        self.require_counts()
        await self.publisher.publish()
        try:
            return await self.queue.look()
        except RedisAway:
            return None

    def receive(
        self, incoming: Incoming, share: Share, prefer: Preferences = NO_PREFERENCES
    ) -> Coroutine[None, None, bytes]:
        """Return what reads the body of a request, unless that would be refused anyway.

        Raises QueueFull, TooLarge, BodyTimeout.
        """
        self.outbox.require_room(self._wait_s(prefer))
        return read_body(
            incoming,
            max_body_bytes=self.settings.max_body_bytes,
            body_timeout_s=self.settings.body_timeout_s,
            hold=share.hold,
        )

    async def prepare(
        self, incoming: Incoming, uploads: Sequence[Upload], share: Share, *, takes: ModelInput, read_s: float
    ) -> Prepared:
        """Make jobs of a request's images. Then only they are held: nobody should refer to body or uploads any more.

        read_s: when its body was there; the time for its preparation counts from then.
        Raises ServiceError.
        """
        incoming.images = len(uploads)
        needed_bytes = self.intake.bytes_of(uploads, takes)
        if needed_bytes > share.held_bytes:
            share.hold(needed_bytes)
        each = await self._prepare(incoming, uploads, takes)
        decode_s = time.monotonic() - read_s
        if incoming.trace is not None:
            incoming.trace.prepared(decode_s)
        jobs = [one for one in each if isinstance(one, Job)]
        if share.held_bytes > LONG_BYTES:  # to count what little a short one has less costs more than it is worth
            share.keep(sum([job.size_bytes for job in jobs]))
        return Prepared(each, jobs, decode_s)

    async def ask(
        self,
        incoming: Incoming,
        prepared: Prepared,
        share: Share,
        *,
        prefer: Preferences = NO_PREFERENCES,
        again: bool = False,
        whole: bool = False,
    ) -> Outcomes | None:
        """Wait for what becomes of a request's images; None: the client is to come back for it.

        again: it may have been asked for before, under its UUID.
        whole: an image that cannot be a job fails the request before any is admitted, as it does where nobody waits.
        Raises ServiceError, starlette's ClientDisconnect.
        """
        if whole or prefer.respond_async:  # whoever collects the result later would find no trace of it
            _require_all(prepared.each)
        jobs, decode_s = prepared.jobs, prepared.decode_s
        results = await self._results(incoming, jobs, prefer, again=again, spent_s=decode_s) if jobs else []
        decode_s += max((result.timing.decode_s for result in results or ()), default=0.0)
        self.metrics.decode_s.see(decode_s)
        if results is None:
            return None
        said_bytes = sum([len(result.prediction) for result in results])
        if said_bytes > LONG_BYTES:
            share.keep(share.held_bytes + said_bytes)
        by_uuid = {result.uuid: result for result in results}
        return Outcomes([by_uuid[one.uuid] if isinstance(one, Job) else one for one in prepared.each], decode_s)

    async def _prepare(
        self, incoming: Incoming, uploads: Sequence[Upload], takes: ModelInput
    ) -> list[Job | ServiceError]:
        uuids = job_uuids(incoming.uuid, len(uploads))
        if not self.settings.simulated_decode_s and not any(self.intake.takes_time(one, takes) for one in uploads):
            return await self.intake.prepare(uploads, uuids, takes, context=incoming.context)
        self._decoding += len(uploads)
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                if self.settings.simulated_decode_s:  # holds no thread, however many wait
                    await asyncio.sleep(self.settings.simulated_decode_s)
                return await self.intake.prepare(uploads, uuids, takes, context=incoming.context)
        except TimeoutError as exc:
            raise DeadlineExceeded("the image was not decoded in time; try again later") from exc
        finally:
            self._decoding -= len(uploads)

    async def _results(
        self, incoming: Incoming, jobs: list[Job], prefer: Preferences, *, again: bool, spent_s: float
    ) -> list[Result] | None:
        """Return what became of the jobs, None where the client is to come back for it."""
        wait_s = max(0.0, self._wait_s(prefer) - spent_s)
        if prefer.respond_async:
            wait_s = 0.0 if prefer.wait_s is None else wait_s
            found = await self.results.ask_and_keep(jobs, timeout_s=self.settings.async_timeout_s, wait_s=wait_s)
            if found is not None and not again:
                self.results.collected(found)
            return found
        if again:  # whoever comes back finds the answer, so the job outlives the connection
            return await self.results.ask_again(jobs, timeout_s=wait_s)
        with self.presence.of(incoming):
            return await self.results.ask(jobs, timeout_s=wait_s)

    def _wait_s(self, prefer: Preferences) -> float:
        """Return how long a client waits for its answer."""
        longest_s = self.settings.request_timeout_s
        return longest_s if prefer.wait_s is None else min(prefer.wait_s, longest_s)


def _require_all(prepared: Sequence[Job | ServiceError]) -> None:
    failed = next((one for one in prepared if isinstance(one, ServiceError)), None)
    if failed:
        raise failed
