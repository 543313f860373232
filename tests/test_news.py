"""The live events: one look for all who listen, none while nobody does, and nothing kept for those who are slow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson

from looks import Look
from news import EVERY_S, MOST_LISTENERS, News
from tests.stack import Stack, until_answering, until_ready


class Queue:
    """A queue whose depth is the number of looks at it; it may be away, or not answer."""

    def __init__(self) -> None:
        self.looks = 0
        self.away = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def look(self) -> Look | None:
        self.looks += 1
        await self.answers.wait()
        return None if self.away else Look(time.time(), self.looks, 0, 0, 0.0, 0, 0, {}, {}, (), ())


def news_of(queue: Queue) -> News:
    return News(queue.look, problem=lambda: None, stopping=lambda: False, worker_timeout_s=5.0)


def value_of(event: bytes) -> dict[str, Any]:
    return dict(orjson.loads(event.partition(b"data: ")[2]))


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Yield kind and value of each event of a stream."""
    kind = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, orjson.loads(line.removeprefix("data: "))


async def test_all_who_listen_share_the_looks_and_none_is_taken_for_nobody() -> None:
    queue = Queue()
    news = news_of(queue)
    streams = [news.stream(b"") for _ in range(3)]
    for stream in streams:
        await anext(stream)

    heard = [await asyncio.gather(*map(anext, streams)) for _ in range(2)]
    for stream in streams:
        await stream.aclose()
    looks = queue.looks
    await asyncio.sleep(3 * EVERY_S)

    assert [len(set(events)) for events in heard] == [1, 1]
    assert looks == 2
    assert queue.looks == looks


async def test_who_is_slow_misses_news_instead_of_having_it_kept() -> None:
    queue = Queue()
    news = news_of(queue)
    slow, quick = news.stream(b""), news.stream(b"")
    for stream in (slow, quick):
        await anext(stream)
    await asyncio.gather(anext(slow), anext(quick))

    last = [await anext(quick) for _ in range(3)][-1]
    following = value_of(await anext(slow))

    assert following["depth"] == value_of(last)["depth"] + 1


async def test_a_redis_that_is_away_ends_no_stream() -> None:
    queue = Queue()
    stream = news_of(queue).stream(b"")
    await anext(stream)
    queue.away = True

    away = value_of(await anext(stream))
    queue.away = False
    back = value_of(await anext(stream))

    assert away == {"ready": False, "problem": "Redis does not answer"}
    assert back["depth"] == 2


async def test_a_look_that_takes_long_is_told_within_a_second_and_is_not_taken_twice() -> None:
    queue = Queue()
    stream = news_of(queue).stream(b"")
    await anext(stream)
    queue.answers.clear()

    async with asyncio.timeout(1):
        silent = value_of(await anext(stream))
    queue.answers.set()
    back = value_of(await anext(stream))

    assert silent["problem"] == "Redis does not answer"
    assert (back["problem"], back["depth"]) == (None, 1)


async def test_a_stream_begins_with_the_limits_and_goes_on_with_the_queue(shared_stack: Stack) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)
        async with client.stream("GET", "/events") as response:
            events = events_of(response)
            (first, limits), (second, news) = await anext(events), await anext(events)

    assert response.headers["content-type"].startswith("text/event-stream")
    assert (first, second) == ("limits", "message")
    most = {"max_images_per_request": 64, "max_body_bytes": 4000, "max_batch_size": 32}
    assert limits == {"models": ["model"], **most}
    assert news["ready"]
    assert [worker["state"] for worker in news["workers"]] == ["idle"]


async def test_one_listener_too_many_is_told_so_until_another_leaves(shared_stack: Stack) -> None:
    async with shared_stack.client() as client, AsyncExitStack() as others:
        await until_ready(client)
        streams = [await others.enter_async_context(client.stream("GET", "/events")) for _ in range(MOST_LISTENERS)]
        listening = [events_of(stream) for stream in streams]
        await asyncio.gather(*map(anext, listening))

        refused = await ask_for_events(client)
        await others.aclose()
        end_s = time.monotonic() + 5
        while (answer := await ask_for_events(client)).status_code != 200 and time.monotonic() < end_s:
            await asyncio.sleep(0.05)

    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert f"{MOST_LISTENERS} others are watching" in refused.json()["detail"]
    assert refused.headers["retry-after"] == "5"
    assert answer.status_code == 200


async def ask_for_events(client: httpx.AsyncClient) -> httpx.Response:
    """Ask, and read what is no stream."""
    async with client.stream("GET", "/events") as response:
        if response.status_code != 200:
            await response.aread()
        return response


async def test_an_api_that_counts_nothing_says_that_it_has_no_news(shared_stack: Stack) -> None:
    socket = f"{shared_stack.folder}/counts-nothing.sock"
    shared_stack.start_api_at(socket, MICROBATCH_METRICS="false")
    transport = httpx.AsyncHTTPTransport(uds=socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        await until_answering(client)

        answer = await client.get("/events")

    assert answer.status_code == 404
    assert "MICROBATCH_METRICS is off" in answer.json()["detail"]
