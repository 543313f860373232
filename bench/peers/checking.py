"""Whether a server answers right, and in batches of how many: looked at before it is measured."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

import images
from bench.load import request_bytes
from bench.models import Small
from bench.peers.catalogue import tensor
from bench.workloads import Workload, photos
from config import load_settings
from inputs import ModelInput

BURST = 64
ANSWER_S = 30.0
FIRST_S = 5.0
PAIR = re.compile(rb"\[(\d+), (\d+)\]")
OURS = re.compile(rb'"predictions":\[(?:\{"sum":)?(\d+)')


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request was told; batch: how many shared its model call, None where that is not said."""

    value: int
    batch: int | None


def expected(workload: str) -> list[int]:
    """Return the right answer to each body, by our own decoding and the same model."""
    if workload == "tensors":
        return [int(tensor().sum())]
    model, settings = Small(), load_settings()
    takes = ModelInput(model.input_shape)
    decoded = [
        images.decode(body, takes=takes, formats=settings.image_formats, max_pixels=settings.max_pixels)
        for body in photos().bodies
    ]
    return model.predict(np.stack(decoded))


def check(url: str, work: Workload, right: Sequence[int]) -> int | None:
    """Send bodies all at once, twice; return the largest batch that was seen.

    Raises RuntimeError where an answer is wrong.
    """
    seen = []
    for _ in range(2):
        replies = asyncio.run(_burst(url, work, BURST, ANSWER_S))
        for number, reply in enumerate(replies):
            answer = read(reply)
            if answer is None or answer.value != right[number % len(right)]:
                raise RuntimeError(f"answers {reply[-80:]!r} instead of {right[number % len(right)]}")
            seen.append(answer.batch)
    return max((batch for batch in seen if batch is not None), default=None)


def answers(url: str, work: Workload) -> bool:
    """Tell whether it answers a request by now."""
    try:
        (reply,) = asyncio.run(_burst(url, work, 1, FIRST_S))
    except (OSError, TimeoutError):
        return False
    return read(reply) is not None


def read(reply: bytes) -> Answer | None:
    """Take an answer out of a whole reply; None where it is none."""
    if not reply.startswith(b"HTTP/1.1 200"):
        return None
    body = reply.partition(b"\r\n\r\n")[2]
    if ours := OURS.search(body):
        return Answer(int(ours[1]), None)
    pairs = PAIR.findall(body)
    return Answer(int(pairs[-1][0]), int(pairs[-1][1])) if pairs else None


async def _burst(url: str, work: Workload, count: int, timeout_s: float) -> list[bytes]:
    """Open all connections, send all requests, then read all replies."""
    address = urlsplit(url)
    async with asyncio.timeout(timeout_s):
        opened = [await asyncio.open_connection(address.hostname, address.port) for _ in range(count)]
        try:
            for number, (_reader, writer) in enumerate(opened):
                body = work.bodies[number % len(work.bodies)]
                headers = {**work.headers, "Connection": "close"}
                writer.write(request_bytes(url, body, work.content_type, path=work.path, headers=headers))
            return await asyncio.gather(*(reader.read() for reader, _writer in opened))
        finally:
            for _reader, writer in opened:
                writer.close()
