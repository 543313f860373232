"""What processes count meets in Redis: each amount once, whichever process is asked, and whoever dies."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import psutil
import pytest

from jobs import JobQueue
from metrics import BATCHES, Metrics
from publishing import Publisher
from tests import test_jobs
from tests.fault_proxy import FaultProxy
from tests.faults import CUT, DROP, REPEAT
from tests.scene import Scene, opened
from tests.stack import PNG, SEVEN, Stack, until_ready
from tests.test_jobs import until_listening
from tests.test_metrics import samples
from tools.service import free_port

server = test_jobs.server
QUEUE = "[('queue', 'default')]"
ANSWERED = "microbatch_requests_total[('code', 'ok'), ('queue', 'default'), ('status', '200')]"


@pytest.fixture
async def scene(server: str) -> AsyncIterator[Scene]:
    async with opened(server) as scene:
        yield scene


async def until(what: Callable[[], Awaitable[bool]], patience_s: float = 10) -> None:
    end_s = time.monotonic() + patience_s
    while not await what():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.05)


async def test_an_amount_is_added_once_however_often_it_is_sent(scene: Scene) -> None:
    for number in (1, 1, 2, 2):
        await scene.queue.count("p", "1 2", number, {"requests 200 ok": 2, "batch_size sum": 0.5})
    await scene.queue.count("other", "", 2, {"requests 200 ok": 1})
    look = await scene.queue.look()

    assert look.totals == {"requests 200 ok": 5, "batch_size sum": 1.0}
    assert [(api.in_progress, api.held_bytes) for api in look.apis] == [(1, 2)]


async def test_a_process_that_says_so_is_gone(scene: Scene) -> None:
    await scene.queue.count("p", "1 2", 1, {})
    await scene.queue.count("p", "gone", 2, {})

    assert (await scene.queue.look()).apis == ()


async def test_counts_are_taken_in_at_the_memory_limit_too(scene: Scene) -> None:
    limit = str((await scene.redis.config_get("maxmemory"))["maxmemory"])
    await scene.redis.config_set("maxmemory", 1)
    try:
        await scene.queue.count("p", "0 0", 1, {"requests 503 unavailable": 1})
    finally:
        await scene.redis.config_set("maxmemory", limit)

    assert (await scene.queue.look()).totals == {"requests 503 unavailable": 1}


async def test_a_look_shows_how_the_queue_stands(scene: Scene) -> None:
    await scene.take(3, n=2)
    await asyncio.sleep(0.01)
    look = await scene.queue.look()

    assert (look.depth, look.waiting, look.in_flight, look.dead) == (3, 1, 2, 0)
    assert 0.005 < look.oldest_s < 5
    assert look.events["submitted"] == 3


async def test_a_lost_reply_makes_nothing_count_twice(stack: Stack) -> None:
    stack.start_redis()
    place = stack.folder / "redis.sock"
    until_listening(place)
    with FaultProxy(stack.folder / "proxy.sock", place, seed=1) as proxy:
        queue = JobQueue(f"unix://{proxy.place}", name="default", timeout_s=2)
        metrics = Metrics()
        publisher = Publisher(queue, metrics, process_id="p", row=str)
        for fault in (DROP, CUT, REPEAT, DROP):
            proxy.order("COUNT", fault)
            metrics.count(BATCHES, "idle")
            await publisher.publish()
        await publisher.publish()
        await publisher.publish()
        totals = (await queue.look()).totals
        await queue.close()

    assert totals == {"batches idle": 4}


async def test_values_are_added_up_and_counted_later_where_redis_does_not_take_them(scene: Scene) -> None:
    # given
    metrics = Metrics()
    publisher = Publisher(scene.queue, metrics, process_id="p", row=str)
    await scene.redis.set(scene.prefix + "totals", "no hash")

    # when
    for _ in range(3):
        for _ in range(100):
            metrics.answered(200, "ok", 0.004)
        await publisher.publish()

    # then
    assert metrics.request_s.take() == {}  # nothing was kept

    # when
    await scene.redis.delete(scene.prefix + "totals")
    await publisher.publish()
    await publisher.publish()

    # then
    assert (await scene.queue.look()).totals["requests 200 ok"] == 300


async def metrics_of(client: httpx.AsyncClient) -> dict[str, float]:
    response = await client.get("/metrics")
    assert response.status_code == 200
    return samples(response.content)


async def predict(client: httpx.AsyncClient, count: int) -> None:
    for _ in range(count):
        assert (await client.post("/predict", content=SEVEN, headers=PNG)).status_code == 200


async def test_one_scrape_tells_the_whole_of_several_api_workers_and_outlives_a_killed_one(stack: Stack) -> None:
    # given
    stack.start_redis()
    stack.start_batcher()
    server = stack.start_api_workers(4)
    clients = [stack.client() for _ in range(8)]
    for client in clients:
        await until_ready(client)
    await asyncio.gather(*(predict(client, 5) for client in clients))
    shown: list[float] = []

    async def counted(expected: int) -> bool:
        shown[:] = [(await metrics_of(client))[ANSWERED] for client in clients]
        return shown == [expected] * len(clients)

    # then
    await until(lambda: counted(40))

    # when
    workers = [child for child in psutil.Process(server.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].kill()
    for client in clients:
        await client.aclose()
    clients[:] = [stack.client() for _ in range(8)]
    for client in clients:
        await until_ready(client)
    await asyncio.gather(*(predict(client, 5) for client in clients))

    # then
    await until(lambda: counted(80))
    await until(lambda: has(clients[0], f"microbatch_api_processes{QUEUE}", 4), patience_s=20)
    for client in clients:
        await client.aclose()


async def has(client: httpx.AsyncClient, name: str, value: float) -> bool:
    return (await metrics_of(client)).get(name) == value


async def test_metrics_say_when_redis_is_away_and_count_on_when_it_is_back(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    redis = stack.start_redis()
    stack.start_batcher()
    stack.start_api()
    await until_ready(client)
    await predict(client, 3)
    await until(lambda: has(client, ANSWERED, 3))

    redis.kill()
    redis.wait()
    assert await metrics_of(client) == {f"microbatch_redis_up{QUEUE}": 0}

    stack.start_redis()
    await until_ready(client)
    await predict(client, 2)
    await until(lambda: has(client, ANSWERED, 2))
    assert (await metrics_of(client))[f"microbatch_redis_up{QUEUE}"] == 1


async def test_the_metrics_of_batchers_come_with_the_api_and_at_a_port_of_their_own(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    # given
    port = free_port()
    stack.start_redis()
    batcher = stack.start_batcher(
        MICROBATCH_BATCHER_METRICS_PORT=str(port), MICROBATCH_ALLOWED_BATCH_SIZES="2,4", MICROBATCH_MAX_BATCH_SIZE="4"
    )
    stack.start_api()
    await until_ready(client)

    # when
    files = [("image", SEVEN)] * 5
    assert (await client.post("/predict", files=files)).status_code == 200

    # then
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as own:
        mine = await metrics_of(own)
        assert (await own.get("/health/live")).json() == {"status": "alive"}
        assert (await own.get("/predict")).status_code == 404
        sizes = {value for name, value in mine.items() if name.startswith("microbatch_batch_size_sum")}
        assert sizes == {5}
    await until(lambda: has(client, f"microbatch_batch_size_sum{QUEUE}", 5))
    whole = await metrics_of(client)
    assert whole["microbatch_jobs_total[('outcome', 'ok'), ('queue', 'default')]"] == 5
    assert whole["microbatch_batches_total[('queue', 'default'), ('reason', 'full')]"] == 1
    assert whole[f"microbatch_padding_images_total{QUEUE}"] == 1
    assert whole[f"microbatch_queue_seconds_count{QUEUE}"] == 5
    assert whole["microbatch_workers[('queue', 'default'), ('state', 'idle')]"] == 1

    # when
    batcher.send_signal(signal.SIGTERM)

    # then
    assert batcher.wait(10) == 0


def test_a_batcher_whose_port_is_taken_says_so_in_a_line(stack: Stack) -> None:
    stack.start_redis()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = stack.outcome_of_batcher(MICROBATCH_BATCHER_METRICS_PORT=str(port))

    assert said.returncode == 1
    assert said.stderr.splitlines()[-1].startswith(f"batcher: cannot listen on 127.0.0.1:{port}")


async def test_without_metrics_nothing_is_published(stack: Stack, client: httpx.AsyncClient) -> None:
    stack.start_redis()
    stack.start_batcher(MICROBATCH_METRICS="false")
    stack.start_api(MICROBATCH_METRICS="false")
    await until_ready(client)
    await predict(client, 2)
    refusal = await client.get("/metrics")

    assert (refusal.status_code, refusal.json()["code"]) == (404, "not_found")
