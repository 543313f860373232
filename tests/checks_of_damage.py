"""What must hold where somebody has written over what is in Redis: what cannot be read costs one job at most.

A check raises AssertionError where its property is broken; so does the end of its scene where the queue is.
"""

from __future__ import annotations

from errors import InternalError
from records import Progress, Result
from tests.scene import Scene
from tests.test_jobs import job, request

GARBAGE = ("", "x", "1 2 3", "a b c d e f g", "\xff\xfe", "1 0 0 0 - api - more", '{"a": 1}')
ODD = b"1 0 0 0 - \xff\xfe \xff"
"""A row of the right form whose words are no text."""


async def a_row_that_cannot_be_read_is_that_of_a_job_just_submitted(scene: Scene) -> None:
    jobs = [job() for _ in GARBAGE]
    await scene.submit(*(request(one) for one in jobs), request(job()))
    for one, text in zip(jobs, GARBAGE, strict=True):
        await scene.ask("HSET meta", one.uuid, text)

    claim = await scene.claim(n=100)

    assert [one.payload for one in claim.jobs[:-1]] == [one.payload for one in jobs]
    assert {one.verdict for one in claim.jobs} == {"run"}
    assert (await scene.queue.look()).events.get("torn") == len(GARBAGE)
    assert await scene.answer(claim, "done") == len(GARBAGE) + 1


async def words_of_a_row_that_are_no_text_cost_nothing(scene: Scene) -> None:
    claim_id = "repeated"
    jobs = [job(), job()]
    await scene.submit(request(*jobs))
    await scene.ask("HSET meta", jobs[0].uuid, ODD)

    codes = await scene.queue.last_codes([one.uuid for one in jobs])
    claims = [await scene.claim(claim_id=claim_id) for _ in range(2)]

    assert [one.payload for one in claims[1].jobs] == [one.payload for one in jobs]
    assert codes[1] == ""
    assert await scene.answer(claims[1], "done") == 2


async def a_row_that_cannot_be_read_does_not_hold_up_who_stands_behind_it(scene: Scene) -> None:
    jobs = [job(), job()]
    await scene.submit(request(*jobs))
    await scene.ask("HSET meta", jobs[0].uuid, "x")

    assert len((await scene.claim(max_wait_s=60.0)).jobs) == 2


async def a_clock_that_was_set_back_does_not_hold_up_jobs_for_longer(scene: Scene) -> None:
    one = job()
    await scene.submit(request(one))
    await scene.ask("HSET meta", one.uuid, f"{await scene.now_ms() + 3_600_000} 0 0 0 - api -")

    assert len((await scene.claim(max_wait_s=1.0)).jobs) == 1


async def a_job_that_stands_twice_in_line_is_given_once(scene: Scene) -> None:
    one = job()
    await scene.submit(request(one, job()))
    await scene.ask("RPUSH pending", one.uuid)

    claim = await scene.claim()

    assert len(claim.jobs) == len({given.uuid for given in claim.jobs}) == 2
    assert await scene.answer(claim, "done") == 2


async def bytes_of_dead_letters_that_are_no_number_begin_again(scene: Scene) -> None:
    for text in ("x", "99999999999", "9223372036854775807"):
        await scene.ask("HSET stats", "dead_bytes", text)
        await scene.ask("HSET stats", "submit_calls", text)
        await scene.fail(await scene.take(), dead=True)
        await scene.fail(await scene.take(), dead=True)

        assert await scene.ask("LLEN dead") >= 1
        assert int(await scene.ask("HGET stats", "dead_bytes")) < 10_000
        await scene.ask("DEL dead")


async def letters_that_cannot_be_read_are_left_out(scene: Scene) -> None:
    await scene.fail(await scene.take(), dead=True)
    for text in ("", "x", "1 2\n", "1 9\nuuid error", "\xff 1\n1"):
        await scene.ask("LPUSH dead", text)

    assert len([one async for one in scene.queue.dead_letters()]) == 1


async def a_letter_is_taken_off_once_with_its_bytes(scene: Scene) -> None:
    await scene.fail(await scene.take(), dead=True)
    before = int(await scene.ask("HGET stats", "dead_bytes"))
    await scene.fail(await scene.take(), dead=True)
    (letter, _) = [one async for one in scene.queue.dead_letters()]

    for _ in range(2):
        await scene.queue.forget_dead(letter)

    assert await scene.ask("LLEN dead") == 1
    assert int(await scene.ask("HGET stats", "dead_bytes")) == before


async def a_row_that_breaks_under_a_lease_costs_no_other_job(scene: Scene) -> None:
    crashed = await scene.take(2, crash=True)
    await scene.ask("HSET meta", crashed.jobs[0].uuid, "x")
    held = await scene.claim("other", n=100)
    await scene.ask("HSET meta", held.jobs[0].uuid, "x")

    assert await scene.beat(held) == [False, *[True] * (len(held.jobs) - 1)]
    assert await scene.answer(held, "done") == len(held.jobs)
    rest = await scene.claim(n=100)
    assert await scene.answer(rest, "done") == len(rest.jobs)
    assert await scene.queue.depth() == 0
    assert len(held.jobs) + len(rest.jobs) == 2


async def a_row_that_cannot_be_read_can_be_cancelled(scene: Scene) -> None:
    one = job()
    await scene.submit(request(one))
    await scene.ask("HSET meta", one.uuid, "x")

    await scene.queue.drop([one.uuid])

    assert await scene.queue.poll([one.uuid]) == [Progress.UNKNOWN]


async def rows_of_workers_and_processes_that_cannot_be_read_go(scene: Scene) -> None:
    for text in ("x", "", "- idle {}"):
        await scene.ask("HSET workers", "odd", text)
        await scene.ask("HSET apis", "odd", text)

        await scene.beat()
        await scene.queue.count("process", "1 2", 1, {"images": 1.0})

        assert await scene.ask("HEXISTS workers", "odd") == await scene.ask("HEXISTS apis", "odd") == 0


async def rows_of_a_right_beginning_that_cannot_be_read_are_left_out(scene: Scene) -> None:
    now = await scene.now_ms()
    await scene.beat()
    for text in ("", " idle", " idle {", " idle []", ' idle {"takes": 1}', ' idle {"takes":{"shape":"x"},"model":1}'):
        await scene.ask("HSET workers", "odd", f"{now}{text}")
        await scene.ask("HSET apis", "odd", f"{now}{text}")

        assert [worker.id for worker in await scene.queue.workers()] == ["worker"]
        assert [worker.id for worker in (await scene.queue.look()).workers] == ["worker"]
        assert (await scene.queue.look()).apis == ()


async def counters_and_totals_that_hold_no_number_begin_again(scene: Scene) -> None:
    for field in ("submit_calls", "submitted", "claimed", "settled", "arriving"):
        await scene.ask("HSET stats", field, "x")
    await scene.ask("HSET totals", "images", "x")
    await scene.ask("HSET totals", "other", "x")

    await scene.answer(await scene.take(), "done")
    await scene.queue.count("process", "", 1, {"images": 2.0})
    look = await scene.queue.look()

    assert (look.events["submitted"], look.events["settled"]) == (1, 1)
    assert dict(look.totals) == {"images": 2.0}


async def a_stored_result_that_cannot_be_read_is_an_error_of_its_job_alone(scene: Scene) -> None:
    claim = await scene.take(9)
    await scene.answer(claim, "done")
    good, *bad = (one.uuid for one in claim.jobs)
    timing = "0.0 0.0 0.0 1 - -"
    texts = (
        "",
        "x",
        "{} ok",
        f"{{}} ok {timing}\n[1, ",
        f"{{}} ok {timing}",
        f"{{}} error {timing}\n[]",
        f"{{}} error {timing}\n{{}}",
        f"stranger ok {timing}\n1",
    )
    for uuid, text in zip(bad, texts, strict=True):
        await scene.ask(f"SET result:{uuid}", text.replace("{}", uuid, 1))

    answers = await scene.queue.poll([good, *bad])

    errors = [one.error for one in answers if isinstance(one, Result)]
    assert errors[0] is None
    assert [type(error) for error in errors[1:]] == [InternalError] * len(bad)
    await scene.queue.drop([good, *bad])
