"""Our own front: `POST /predict`, and `/results` for those who come back for their answers."""

from __future__ import annotations

import asyncio
import re
import time
from hashlib import sha256

from answers import accepted, add_timing, predictions
from asgi import Answer, Incoming
from bodies import split_body
from errors import DeadlineExceeded, IdempotencyKeyReused, NotFound
from ids import job_uuids
from prefer import preferences, read_key
from records import Progress, Result
from service import Service
from services import Services

UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
REQUEST_ID = re.compile(rf"({UUID})(?:\.([1-9]\d{{0,3}}))?")
MOST_IMAGES = 1024


async def predict(service: Service, incoming: Incoming) -> Answer:
    """Take one prediction request from its body to its answer.

    Raises ServiceError.
    """
    with service.budget.share() as share:
        takes = service.readiness.require()
        prefer = preferences(incoming.headers.get("prefer"))
        body = await service.receive(incoming, share, prefer)
        kind = incoming.headers.get("content-type", "")
        uploads = await split_body(kind, body, max_images=service.settings.max_images_per_request, hold=share.hold)
        read_s = time.monotonic()
        key = read_key(incoming.headers.get("idempotency-key"))
        if key:
            incoming.uuid = await _uuid_of(service, key, kind, body)
        del body
        prepared = await service.prepare(incoming, uploads, share, takes=takes, read_s=read_s)
        del uploads
        outcomes = await service.ask(incoming, prepared, share, prefer=prefer, again=bool(key))
        request_id = incoming.uuid if incoming.images == 1 else f"{incoming.uuid}.{incoming.images}"
        if outcomes is None:
            answer = accepted(request_id)
        else:
            answer = predictions(request_id, outcomes.each)
            answer.hold_until_sent(share)
            add_timing(answer, outcomes.each, decode_s=outcomes.decode_s, total_s=time.monotonic() - incoming.started_s)
    if prefer.applied:
        answer.add(b"preference-applied", prefer.applied)
    return answer


async def _uuid_of(service: Service, key: str, kind: str, body: bytes) -> str:
    """Return the UUID of all requests that come with this Idempotency-Key.

    Raises IdempotencyKeyReused where it came with another body before, RedisAway.
    """
    fingerprint = await asyncio.to_thread(_fingerprint, kind, body)
    settings = service.settings
    longest_s = max(settings.request_timeout_s, settings.async_timeout_s)
    ttl_s = longest_s + settings.request_timeout_s + settings.result_ttl_s  # prepared, run, and kept
    uuid = await service.queue.identify(key, fingerprint, ttl_s=ttl_s)
    if uuid is None:
        raise IdempotencyKeyReused("this Idempotency-Key came with another body before; use a new one")
    return uuid


def _fingerprint(kind: str, body: bytes) -> bytes:
    digest = sha256(kind.encode() + b"\n")
    digest.update(body)
    return digest.digest()


async def result(services: Services, request_id: str) -> Answer:
    """Answer with what became of a request, whichever model it was for.

    Raises NotFound, DeadlineExceeded, RedisAway.
    """
    uuids = _uuids(request_id)
    found = await asyncio.gather(*(one.queue.poll(uuids) for one in services))
    answers = max(found, key=lambda answers: sum(answer is not Progress.UNKNOWN for answer in answers))
    if any(answer is Progress.UNKNOWN for answer in answers):
        raise NotFound("this result is unknown, expired or already answered")
    if any(answer is Progress.WORKING for answer in answers):
        return accepted(request_id)
    late = DeadlineExceeded("no result in time")
    outcomes = [answer if isinstance(answer, Result) else late for answer in answers]
    answer = predictions(request_id, outcomes)
    add_timing(answer, outcomes)
    return answer


async def cancel(services: Services, request_id: str) -> None:
    """Take a request's jobs out of the queue, or forget their results, whichever model it was for.

    Raises NotFound, RedisAway.
    """
    uuids = _uuids(request_id)
    await asyncio.gather(*(one.queue.cancel(uuids) for one in services))


def _uuids(request_id: str) -> list[str]:
    match = REQUEST_ID.fullmatch(request_id)
    if match is None or int(match[2] or 1) > MOST_IMAGES:
        raise NotFound("there is no such result")
    return job_uuids(match[1], int(match[2] or 1))
