"""More than the model can do: what is answered is answered in time, the rest is refused at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import httpx
import numpy as np
import pytest

from tests.scale import LONG, times
from tests.stack import Stack, npy, until_ready

BATCH_SIZE = 8
BATCH_S = 0.04
CAPACITY = BATCH_SIZE / BATCH_S  # images a second
DEADLINE_S = 1.0
LEAST_PART = 0.98 if LONG else 0.8
"""Of the capacity; what else runs on the machine is a large part of a few seconds."""


@dataclass
class Answer:
    """What became of one request.

    took_s: as the client saw it, which is slow itself at ten times the load. total_s: as the api says.
    """

    status: int
    took_s: float
    total_s: float
    retry_after: str


async def ask(socket: str, request: bytes) -> Answer:
    """Send one prepared request on a connection of its own: an open loop must not wait for its answers."""
    started_s = time.monotonic()
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(request)
    head, _, _body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    lines = head.decode().splitlines()
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    total_ms = float(fields.get("server-timing", "0").rpartition("=")[2])
    return Answer(
        int(lines[0].split()[1]), time.monotonic() - started_s, total_ms / 1000, fields.get("retry-after", "")
    )


async def flood(socket: str, request: bytes, *, rate: float, seconds: float) -> list[Answer]:
    """Send at a rate, whatever comes back."""
    started_s, sent = time.monotonic(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, started_s + number / rate - time.monotonic()))
        sent.append(asyncio.create_task(ask(socket, request)))
    return await asyncio.gather(*sent)


@pytest.mark.chaos
@pytest.mark.parametrize("times_capacity", [1.2, 3.0, 10.0] if LONG else [1.2, 3.0])
async def test_an_overloaded_service_does_what_it_can(
    stack: Stack, client: httpx.AsyncClient, times_capacity: float
) -> None:
    # given: a model of a known capacity, and a deadline
    seconds = times(4, 30)
    stack.start_redis()
    stack.start_batcher(
        MICROBATCH_MODEL="simulated",
        MICROBATCH_SIMULATED_BATCH_S=str(BATCH_S),
        MICROBATCH_MAX_BATCH_SIZE=str(BATCH_SIZE),
    )
    stack.start_api(MICROBATCH_REQUEST_TIMEOUT_S=str(DEADLINE_S), MICROBATCH_MAX_BATCH_SIZE=str(BATCH_SIZE))
    await until_ready(client)
    body = npy(np.zeros((32, 32, 3), np.uint8))
    head = "POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/x-npy\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    socket = f"{stack.folder}/api.sock"

    await flood(socket, request, rate=CAPACITY / 10, seconds=2.5)  # until the api knows what a batch takes

    # when
    answers = await flood(socket, request, rate=CAPACITY * times_capacity, seconds=seconds)
    await asyncio.sleep(2 * DEADLINE_S)
    after = await ask(socket, request)

    # then
    answered = [one for one in answers if one.status == 200]
    refused = sorted(one.took_s for one in answers if one.status == 429)
    p50_ms, p99_ms = (refused[int(len(refused) * part)] * 1000 for part in (0.5, 0.99))
    late = len(answers) - len(answered) - len(refused)
    print(  # noqa: T201  # the figures of the run, shown by -rP
        f"{times_capacity} times: {len(answered) / (CAPACITY * seconds):.3f} of capacity, "
        f"{len(refused)} refused in {p50_ms:.1f} ms (p99 {p99_ms:.1f}), {late} late, "
        f"slowest {max(one.total_s for one in answered):.3f} s, afterwards {after.took_s * 1000:.1f} ms"
    )
    assert len(answered) >= LEAST_PART * CAPACITY * seconds
    assert max(one.total_s for one in answered) <= DEADLINE_S + 0.1
    assert p50_ms <= 50
    assert late <= 0.05 * len(answers)
    assert {one.status for one in answers} <= {200, 429, 504}
    assert all(int(one.retry_after) >= 1 for one in answers if one.status == 429)
    assert (after.status, after.took_s < 0.2) == (200, True)
