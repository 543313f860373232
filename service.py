"""One api process: its parts, and the path of a request through them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from hashlib import sha256
from uuid import uuid4

import numpy as np

from answers import accepted, add_timing, predictions
from asgi import Answer, Incoming
from bodies import Upload, read_body, split_body
from budget import ByteBudget, Share
from config import Settings
from decoding import Decoder
from errors import DeadlineExceeded, IdempotencyKeyReused, NotFound, ServiceError
from inputs import ModelInput
from intake import Intake, job_uuids, new_uuid
from jobs import JobQueue
from outbox import Outbox
from prefer import Preferences, preferences, read_key
from presence import Presence
from readiness import Readiness, override_input
from records import Job, Progress, Result
from results import Results
from telemetry import Metrics

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
REQUEST_ID = re.compile(rf"({UUID})(?:\.([1-9]\d{{0,3}}))?")
MOST_IMAGES = 1024


class Service:
    """Everything one api process holds while it runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.queue = JobQueue(settings.redis_url, name=settings.queue_name, timeout_s=settings.redis_timeout_s)
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
        self.results = Results(self.queue, self.readiness, self.outbox, api_id=api_id)
        self.presence = Presence()
        self.budget = ByteBudget(settings.max_held_bytes)
        decoder = Decoder(
            formats=settings.image_formats, max_pixels=settings.max_pixels, threads=settings.decode_threads
        )
        self.intake = Intake(decoder, near=settings.decode_in == "api")

    async def run(self) -> None:
        """Watch Redis and listen for results, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.readiness.run())
            tasks.create_task(self.results.run())

    async def close(self) -> None:
        """Send what is still to be sent to Redis, and give back threads and connections."""
        self.intake.close()
        await self.outbox.close()
        await self.queue.close()

    async def predict(self, incoming: Incoming) -> Answer:
        """Take one prediction request from its body to its answer.

        Raises ServiceError.
        """
        with self.budget.share() as share:
            return await self._predict(incoming, share)

    async def _predict(self, incoming: Incoming, share: Share) -> Answer:
        started_s = time.monotonic()
        takes = self.readiness.require()
        prefer = preferences(incoming.headers.get("prefer"))
        settings = self.settings
        self.outbox.require_room(self._wait_s(prefer))
        body = await read_body(
            incoming,
            max_body_bytes=settings.max_body_bytes,
            body_timeout_s=settings.body_timeout_s,
            hold=share.hold,
        )
        kind = incoming.headers.get("content-type", "")
        uploads = await split_body(kind, body, max_images=settings.max_images_per_request)
        read_s = time.monotonic()
        key = read_key(incoming.headers.get("idempotency-key"))
        request_uuid = await self._uuid_of(key, kind, body) if key else new_uuid()
        prepared = await self._prepare(uploads, request_uuid, takes)
        decode_s = time.monotonic() - read_s
        failed = next((one for one in prepared if isinstance(one, ServiceError)), None)
        if prefer.respond_async and failed:
            raise failed  # whoever collects the result later would find no trace of it
        request_id = request_uuid if len(uploads) == 1 else f"{request_uuid}.{len(uploads)}"
        jobs = [one for one in prepared if isinstance(one, Job)]
        share.hold(max(share.held_bytes, sum(len(job.payload) for job in jobs)))
        results = await self._results(incoming, jobs, prefer, again=bool(key), spent_s=decode_s) if jobs else []
        decode_s += max((result.timing.decode_s for result in results or ()), default=0.0)
        self.metrics.decode_seconds.observe(decode_s)
        if results is None:
            answer = accepted(request_id)
        else:
            by_uuid = {result.uuid: result for result in results}
            outcomes = [by_uuid[one.uuid] if isinstance(one, Job) else one for one in prepared]
            answer = predictions(request_id, outcomes)
            add_timing(answer, outcomes, decode_s=decode_s, total_s=time.monotonic() - started_s)
        if prefer.applied:
            answer.add(b"preference-applied", prefer.applied)
        return answer

    async def _uuid_of(self, key: str, kind: str, body: bytes) -> str:
        """Return the UUID of all requests that come with this Idempotency-Key.

        Raises IdempotencyKeyReused where it came with another body before, RedisUnreachable.
        """
        fingerprint = await asyncio.to_thread(lambda: sha256(kind.encode() + b"\n" + body).digest())
        ttl_s = max(self.settings.request_timeout_s, self.settings.async_timeout_s) + self.settings.result_ttl_s
        uuid = await self.queue.identify(key, fingerprint, ttl_s=ttl_s)
        if uuid is None:
            raise IdempotencyKeyReused("this Idempotency-Key came with another body before; use a new one")
        return uuid

    async def _prepare(
        self, uploads: Sequence[Upload], request_uuid: str, takes: ModelInput
    ) -> list[Job | ServiceError]:
        if not self.settings.simulated_decode_s and isinstance(uploads[0], np.ndarray):  # it takes no time
            return await self.intake.prepare(uploads, job_uuids(request_uuid, len(uploads)), takes)
        self._decoding += len(uploads)
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                if self.settings.simulated_decode_s:  # holds no thread, however many wait
                    await asyncio.sleep(self.settings.simulated_decode_s)
                return await self.intake.prepare(uploads, job_uuids(request_uuid, len(uploads)), takes)
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
            return await self.results.ask_and_keep(jobs, timeout_s=self.settings.async_timeout_s, wait_s=wait_s)
        if again:  # whoever comes back finds the answer, so the job outlives the connection
            return await self.results.ask_again(jobs, timeout_s=wait_s)
        with self.presence.of(incoming):
            return await self.results.ask(jobs, timeout_s=wait_s)

    def _wait_s(self, prefer: Preferences) -> float:
        """Return how long a client waits for its answer."""
        longest_s = self.settings.request_timeout_s
        return longest_s if prefer.wait_s is None else min(prefer.wait_s, longest_s)

    async def result(self, request_id: str) -> Answer:
        """Answer with what became of a request.

        Raises NotFound, DeadlineExceeded, RedisUnreachable.
        """
        answers = await self.queue.poll(_uuids(request_id))
        if any(answer is Progress.UNKNOWN for answer in answers):
            raise NotFound("this result is unknown, expired or already answered")
        if any(answer is Progress.WORKING for answer in answers):
            return accepted(request_id)
        late = DeadlineExceeded("no result in time")
        outcomes = [answer if isinstance(answer, Result) else late for answer in answers]
        answer = predictions(request_id, outcomes)
        add_timing(answer, outcomes)
        return answer

    async def cancel(self, request_id: str) -> None:
        """Take a request's jobs out of the queue, or forget their results.

        Raises NotFound, RedisUnreachable.
        """
        await self.queue.drop(_uuids(request_id))


def _uuids(request_id: str) -> list[str]:
    match = REQUEST_ID.fullmatch(request_id)
    if match is None or int(match[2] or 1) > MOST_IMAGES:
        raise NotFound("there is no such result")
    return job_uuids(match[1], int(match[2] or 1))
