"""What must hold of payloads that do not pass through SUBMIT; each check is quick and depends on no timing.

A check raises AssertionError where its property is broken; so does the end of its scene where the queue is.
"""

from __future__ import annotations

import numpy as np

from ids import new_uuid
from jobs import SUBMIT_BYTES
from records import Claim, Job, read_payload, tensor_payload
from tests.scene import Scene
from tests.test_jobs import job, request


def long_job(number: int) -> Job:
    uuid = new_uuid()
    return Job(uuid, tensor_payload(uuid, np.full(SUBMIT_BYTES, number, np.uint8)))


def numbers(claim: Claim) -> list[int]:
    """Return the first number of each image, all of which are alike."""
    images = [read_payload(one) for one in claim.jobs]
    assert all(len(set(image)) == 1 for image in images)
    return [int(image[0]) for image in images]


async def long_and_short_ones_keep_their_order_and_their_bytes(scene: Scene) -> None:
    short = new_uuid()
    one, two = long_job(1), long_job(2)
    between = Job(short, tensor_payload(short, np.full(10, 7, np.uint8)))
    assert await scene.submit(request(one), request(between, two)) == ["accepted", "accepted"]

    assert numbers(await scene.claim()) == [1, 7, 2]


async def what_is_refused_leaves_nothing(scene: Scene) -> None:
    claim = await scene.take(1)
    await scene.answer(claim, "uncollected")

    refused = [request(long_job(1), long_job(2)), request(long_job(3), kept=True)]
    assert await scene.submit(request(long_job(4)), *refused, depth=2, results=1) == ["accepted", "full", "full"]
    assert await scene.ask("HLEN data") == 1


async def what_is_refused_and_taken_in_one_call_is_taken(scene: Scene) -> None:
    await scene.answer(await scene.take(1), "uncollected")
    one = long_job(9)

    assert await scene.submit(request(one, kept=True), request(one), results=1) == ["full", "accepted"]
    assert numbers(await scene.claim()) == [9]


async def one_that_is_sent_again_is_left_as_it_is(scene: Scene) -> None:
    one = long_job(5)

    assert await scene.submit(request(one), request(one)) == ["accepted", "accepted"]
    assert await scene.submit(request(one), depth=1) == ["accepted"], "it is in line"
    claim = await scene.claim()
    assert await scene.submit(request(one), depth=0) == ["accepted"], "it is leased"
    assert numbers(claim) == [5]
    await scene.answer(claim, "done")
    assert await scene.submit(request(one), depth=0) == ["accepted"], "it is settled"
    assert await scene.ask("HLEN data") == 0


async def without_memory_none_is_taken_and_later_all_are(scene: Scene) -> None:
    one = long_job(6)
    await scene.redis.config_set("maxmemory", 1)
    try:
        assert await scene.submit(request(one), request(job())) == ["no_memory", "no_memory"]
    finally:
        await scene.redis.config_set("maxmemory", 0)
    assert await scene.ask("HLEN data") == 0

    assert await scene.submit(request(one)) == ["accepted"]
    assert numbers(await scene.claim()) == [6]


async def a_redis_that_has_forgotten_the_scripts_is_told_again(scene: Scene) -> None:
    await scene.redis.script_flush()
    assert await scene.submit(request(long_job(8))) == ["accepted"]
    await scene.redis.script_flush()
    assert await scene.submit(request(long_job(3)), depth=1) == ["full"]
    for _ in range(16):
        await scene.submit()

    assert numbers(await scene.claim()) == [8]


async def what_an_api_left_that_died_in_between_is_swept(scene: Scene) -> None:
    await scene.submit(request(long_job(1)), request(job()))
    await scene.ask("HSET data", new_uuid(), "left behind")

    for _ in range(16):
        await scene.submit(request(long_job(2)), depth=3)

    assert await scene.ask("HLEN data") == await scene.queue.depth() == 3
