"""How often Redis is asked, counted where each exchange leaves its process."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from uuid import uuid4

import hiredis
import numpy as np
import pytest

from jobs import INLINE_BYTES
from records import Job, tensor_payload
from tests import test_results
from tests.test_claiming_ahead import Model, batcher_of
from tests.test_results import Desk, job
from wire import _Line, _read_scripts

desk = test_results.desk
NAMES = {digest.encode(): name.upper() for name, (_text, digest) in _read_scripts().items()}

BY_THE_CLOCK = ("BEAT", "TIME HGETALL", "BLPOP LPOP", "POLL")
"""What comes however many requests there are; one look at the api's bell may last until it rings."""


def names(request: bytes) -> str:
    """Return the commands of one exchange, scripts by their names."""
    reader, found = hiredis.Reader(), []
    reader.feed(request)
    while command := reader.gets():
        found.append(NAMES.get(command[1], command[0].decode()) if command[0] == b"EVALSHA" else command[0].decode())
    return " ".join(found)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give all exchanges of this process, api's and worker's, as they are made."""
    seen: list[str] = []
    exchange = _Line.exchange

    async def counted(line: _Line, request: Sequence[bytes | memoryview], count: int, limit_s: float) -> list[object]:
        seen.append(names(b"".join(request)))
        return await exchange(line, request, count, limit_s)

    monkeypatch.setattr(_Line, "exchange", counted)
    return seen


async def took(desk: Desk, asked: list[str], jobs: list[Job]) -> list[str]:
    """Ask for each job in the same turn of the event loop, with an idle worker; return the exchanges this took."""
    stopping = asyncio.Event()
    running = asyncio.create_task(batcher_of(desk.queue, Model()).run(stopping))
    for _ in range(2):  # then scripts are known and connections open
        await desk.results.ask([job()], timeout_s=5)
        await until_idle(asked)
        asked.clear()
    await asyncio.gather(*(desk.results.ask([one], timeout_s=5) for one in jobs))
    await until_idle(asked)
    counted = [one for one in asked if one not in BY_THE_CLOCK]
    stopping.set()
    await running
    return counted


async def until_idle(asked: list[str]) -> None:
    """Wait until the worker waits for the bell, and what has been answered is swept up."""
    end_s = time.monotonic() + 5
    while not {"BLPOP CLAIM", "DROP"} <= set(asked):
        assert time.monotonic() < end_s, asked
        await asyncio.sleep(0.005)


async def test_the_requests_of_one_turn_share_each_round_trip(desk: Desk, asked: list[str]) -> None:
    counts = Counter(await took(desk, asked, [job(), job()]))

    assert counts == {"SUBMIT": 1, "SETTLE": 1, "BLPOP CLAIM": 1, "DROP": 1}


async def test_only_long_payloads_cost_one_more(desk: Desk, asked: list[str]) -> None:
    uuid = str(uuid4())
    long = Job(uuid, tensor_payload(uuid, np.zeros(INLINE_BYTES, np.uint8)))
    counts = Counter(await took(desk, asked, [long]))

    assert counts["HGET"] == 1
    assert counts.total() == 5
