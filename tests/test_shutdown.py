"""SIGTERM: what is held is finished or given back, who waits is told, and the process is gone in time."""

from __future__ import annotations

import asyncio
import signal
import socket
import time

import httpx
import pytest

from tests.fleet import Fleet, until
from tests.history import History
from tests.load import Load
from tests.questions import Question, Sums
from tests.stack import Stack

WITHIN_S = 40.0
CLIENTS = 12
WARM_JOBS = 50
"""Answered before anybody is told to stop, so that the load is a load."""


def lost_or_wrong(history: History) -> list[object]:
    return [*history.violations(until_s=time.monotonic() + WITHIN_S)]


async def leave(fleet: Fleet, name: str) -> tuple[int, float]:
    """Send SIGTERM; return the exit code and how long it took."""
    process = fleet.processes[name]
    told_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.wait, 60)
    return code, time.monotonic() - told_s


def ask(client: httpx.AsyncClient, question: Question) -> asyncio.Task[httpx.Response]:
    headers = {"Content-Type": question.content_type}
    return asyncio.create_task(client.post("/predict", content=question.body, headers=headers))


async def has_answered(load: Load, jobs: int) -> bool:
    return load.answered >= jobs


async def depth_is(fleet: Fleet, jobs: int) -> bool:
    return await fleet.depth() == jobs


async def test_batchers_told_to_stop_under_load_finish_and_count_no_death(stack: Stack) -> None:
    history, stopping = History(), asyncio.Event()
    settings = {"MODEL": "simulated", "SIMULATED_BATCH_S": "0.02", "LOG_LEVEL": "error"}
    async with Fleet(stack, apis=1, batchers=2, **settings) as fleet:
        load = Load(history, fleet.clients, Sums(), within_s=WITHIN_S)
        running = asyncio.create_task(load.run(CLIENTS, stopping))
        codes = []

        for turn in range(4):
            jobs = load.answered + WARM_JOBS
            await until("more is answered", lambda: has_answered(load, jobs))  # noqa: B023  # awaited here
            name = fleet.batchers[turn % 2]
            codes.append((await leave(fleet, name))[0])
            fleet.start(name)
        stopping.set()
        await running
        ended = await fleet.counter("leases_ended")

    assert codes == [0] * 4
    assert ended == 0
    assert lost_or_wrong(history) == []


async def test_a_batch_longer_than_the_grace_is_given_back_and_counts_no_death(stack: Stack) -> None:
    question = Sums()(1)
    settings = {"MODEL": "simulated", "SIMULATED_BATCH_S": "2", "SHUTDOWN_GRACE_S": "0.3"}
    async with Fleet(stack, apis=1, batchers=2, **settings) as fleet:
        asked = ask(fleet.clients[0], question)
        await until("the job is held", lambda: holds(fleet))
        (holder,) = await fleet.holders()

        code, took_s = await leave(fleet, holder)
        answer = await asked
        ended, released = await fleet.counter("leases_ended"), await fleet.counter("released")

    assert (code, ended, released) == (0, 0, 1)
    assert took_s < 0.3 + 1
    assert answer.json()["predictions"] == question.right


async def holds(fleet: Fleet) -> bool:
    return bool(await fleet.holders())


async def test_an_idle_batcher_leaves_at_once(stack: Stack) -> None:
    async with Fleet(stack, apis=1, batchers=1) as fleet:
        code, took_s = await leave(fleet, "batcher-0")
        workers = await fleet.redis.hlen("{mb:default}:workers")

    assert (code, workers) == (0, 0)
    assert took_s < 3


async def test_an_api_told_to_stop_under_load_loses_nothing(stack: Stack) -> None:
    history, stopping = History(), asyncio.Event()
    grace_s = 3.0
    settings = {"MODEL": "simulated", "SIMULATED_BATCH_S": "0.02", "LOG_LEVEL": "error"}
    async with Fleet(stack, apis=2, batchers=2, SHUTDOWN_GRACE_S=str(grace_s), **settings) as fleet:
        load = Load(history, fleet.clients, Sums(), within_s=WITHIN_S)
        running = asyncio.create_task(load.run(CLIENTS, stopping))
        await until("there is load", lambda: has_answered(load, WARM_JOBS))

        code, took_s = await leave(fleet, "api-0")
        jobs = load.answered + WARM_JOBS
        await until("the other api answers", lambda: has_answered(load, jobs))
        stopping.set()
        await running

    assert code == 0
    assert took_s < grace_s + 1
    assert lost_or_wrong(history) == []


@pytest.mark.parametrize(
    ("batch_s", "grace_s", "statuses"),
    [("0.5", 5.0, {200}), ("4", 1.0, {503})],
    ids=["answered-within-the-grace", "refused-when-it-is-over"],
)
async def test_who_waits_at_an_api_that_stops_is_answered_or_refused(
    stack: Stack, batch_s: str, grace_s: float, statuses: set[int]
) -> None:
    sums, waiting = Sums(), 20
    settings = {"MODEL": "simulated", "SIMULATED_BATCH_S": batch_s, "REQUEST_TIMEOUT_S": "60", "MODEL_TIMEOUT_S": "60"}
    async with Fleet(stack, apis=2, batchers=1, SHUTDOWN_GRACE_S=str(grace_s), **settings) as fleet:
        asked = [ask(fleet.clients[0], sums(1)) for _ in range(waiting)]
        await until("all are in the queue", lambda: depth_is(fleet, waiting))

        code, took_s = await leave(fleet, "api-0")
        answers = await asyncio.gather(*asked, return_exceptions=True)

    cut = [answer for answer in answers if isinstance(answer, BaseException)]
    assert cut == []
    told = [answer for answer in answers if isinstance(answer, httpx.Response)]
    assert {answer.status_code for answer in told} == statuses
    assert all(answer.json()["code"] == "unavailable" for answer in told if answer.status_code == 503)
    assert code == 0
    assert took_s < grace_s + 1


async def test_a_hundred_stuck_clients_do_not_keep_an_api_from_stopping(stack: Stack) -> None:
    grace_s, question = 1.0, Sums()(1)
    settings = {"MODEL": "simulated", "LOG_LEVEL": "error"}
    async with Fleet(stack, apis=2, batchers=1, SHUTDOWN_GRACE_S=str(grace_s), **settings) as fleet:
        head = "POST /predict HTTP/1.1\r\nHost: service\r\nContent-Type: application/x-npy\r\n"
        half = f"{head}Content-Length: {len(question.body)}\r\n\r\n".encode() + question.body[:1000]
        never_read = b"GET /openapi.json HTTP/1.1\r\nHost: service\r\n\r\n" * 300
        stuck = [stalled(fleet.socket("api-0"), half) for _ in range(50)]
        stuck += [stalled(fleet.socket("api-0"), never_read) for _ in range(50)]
        served = await ask(fleet.clients[0], question)

        code, took_s = await leave(fleet, "api-0")
        other = await ask(fleet.clients[1], question)
        for client in stuck:
            client.close()

    assert [answer.json()["predictions"] for answer in (served, other)] == [question.right] * 2
    assert code == 0
    assert took_s < grace_s + 1


def stalled(path: str, sent: bytes) -> socket.socket:
    """Connect, send this much, and never read."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(sent)
    return client
