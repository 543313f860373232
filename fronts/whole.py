"""A request of another server's protocol: answered whole, or refused whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

from answers import add_timing
from asgi import Answer, Incoming
from bodies import Upload, size_bytes
from budget import Share
from errors import DeadlineExceeded, InternalError, ServiceError
from fronts import encodings
from inputs import ModelInput
from records import Result
from service import Service

Done = TypeVar("Done")

LARGE_BYTES = 32 * 1024
"""From here on a body is read and an answer written in a thread: it may take longer than others should wait."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body asks for: its rows, and how the answer is made of one prediction (JSON) a row."""

    rows: Sequence[Upload]
    answer: Callable[[Sequence[bytes]], Answer]


@dataclass(frozen=True, slots=True)
class Reader:
    """How a protocol's bodies are read.

    weigh: of a body the bytes that reading it will take; it raises TooLarge where that is out of proportion.
    """

    weigh: Callable[[bytes, ModelInput], int]
    read: Callable[[bytes, ModelInput], Asked]


async def answer_whole(service: Service, incoming: Incoming, reader: Reader) -> Answer:
    """Take a request from its body to its answer; the first row that fails fails it.

    Raises ServiceError.
    """
    with service.budget.share() as share:
        takes = service.readiness.require()
        body = await _unpacked(service, incoming, share)
        read_s = time.monotonic()
        asked = await _read(service, body, takes, reader, share)
        rows, answer_of = asked.rows, asked.answer
        del body, asked
        prepared = await service.prepare(incoming, rows, share, takes=takes, read_s=read_s)
        del rows
        outcomes = await service.ask(incoming, prepared, share, whole=True)
        if outcomes is None:
            raise InternalError("a request that waits was to be collected later")
        predictions = [_prediction(one) for one in outcomes.each]
        answer = await _in_time(service, share, sum(map(len, predictions)), lambda: answer_of(predictions))
        answer.hold_until_sent(share)
        add_timing(answer, outcomes.each, decode_s=outcomes.decode_s, total_s=time.monotonic() - incoming.started_s)
        return answer


async def _unpacked(service: Service, incoming: Incoming, share: Share) -> bytes:
    body = await service.receive(incoming, share)
    encoding = incoming.headers.get("content-encoding", "")
    if not encoding:
        return body
    limit_bytes = service.settings.max_body_bytes
    share.hold(2 * len(body) + encodings.unpacked_bytes(body, limit_bytes=limit_bytes))
    plain = await _in_time(
        service, share, len(body) * 8, lambda: encodings.unpack(body, encoding, limit_bytes=limit_bytes)
    )
    share.hold(len(plain))
    return plain


async def _read(service: Service, body: bytes, takes: ModelInput, reader: Reader, share: Share) -> Asked:
    async with service.reading if len(body) >= LARGE_BYTES else nullcontext():
        share.hold(len(body) + await _in_time(service, share, len(body), lambda: reader.weigh(body, takes)))
        asked = await _in_time(service, share, len(body), lambda: reader.read(body, takes))
        share.keep(len(body) + sum(map(size_bytes, asked.rows)))
        return asked


async def _in_time(service: Service, share: Share, length: int, work: Callable[[], Done]) -> Done:
    """Do it here where it is small, else in a thread; where nobody waits for that any more its memory still counts."""
    if length < LARGE_BYTES:
        return work()
    doing = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        async with asyncio.timeout(service.settings.request_timeout_s):
            return await asyncio.shield(doing)
    except TimeoutError as exc:
        raise DeadlineExceeded("the request was not read in time; try again later") from exc
    finally:
        if not doing.done():
            held = share.pass_on(share.held_bytes)
            doing.add_done_callback(lambda done: _ended(done, held))


def _ended(done: asyncio.Future[Done], held: Share) -> None:
    """Give back what a thread held for nobody."""
    held.keep(0)
    if not done.cancelled():
        done.exception()  # or asyncio complains that nobody looked at it


def _prediction(outcome: Result | ServiceError) -> bytes:
    error = outcome if isinstance(outcome, ServiceError) else outcome.error
    if error is not None:
        raise error
    return outcome.prediction if isinstance(outcome, Result) else b"null"
