"""What must hold of taking jobs in, settling, polling and dropping them; each check is quick and depends on no timing.

A check raises AssertionError where its property is broken; so does the end of its scene where the queue is.
"""

from __future__ import annotations

from records import Progress, read_dead_letter
from tests.clock import let_pass
from tests.scene import SHORT_S, Scene, late_request
from tests.test_jobs import job, request

ALWAYS = {"stats", "workers", "idle"}


async def the_jobs_of_a_request_are_admitted_all_or_none(scene: Scene) -> None:
    pairs = [request(job(), job()) for _ in range(2)]

    assert await scene.submit(*pairs, request(job()), depth=3) == ["accepted", "full", "accepted"]
    assert await scene.queue.depth() == 3


async def leased_jobs_count_for_the_depth_and_settled_ones_do_not(scene: Scene) -> None:
    claim = await scene.take(2)

    assert await scene.submit(request(job()), depth=2) == ["full"]
    assert await scene.answer(claim, "done") == 2
    assert await scene.submit(request(job(), job()), depth=2) == ["accepted"]


async def a_known_job_is_not_taken_twice(scene: Scene) -> None:
    one = request(job())

    assert await scene.submit(one, one) == ["accepted", "accepted"]
    assert await scene.submit(one, depth=1) == ["accepted"]
    claim = await scene.claim()
    assert len(claim.jobs) == 1
    await scene.answer(claim, "done")
    assert await scene.submit(one, depth=0) == ["accepted"]
    assert await scene.queue.depth() == 0


async def a_job_that_stands_twice_in_a_request_is_taken_once(scene: Scene) -> None:
    one = job()

    assert await scene.submit(request(one, one)) == ["accepted"]
    assert await scene.ask("LLEN pending") == 1


async def who_would_wait_too_long_is_refused_unless_nobody_waits(scene: Scene) -> None:
    assert await scene.submit_against(40.0, remaining_s=30.0) == "accepted"
    assert await scene.submit_against(28.0, remaining_s=30.0) == "full"
    assert await scene.submit_against(26.0, remaining_s=30.0) == "accepted"
    assert await scene.submit_against(0.0, remaining_s=0.1) == "accepted"


async def kept_results_have_a_bound_that_waiting_requests_do_not_feel(scene: Scene) -> None:
    await scene.answer(await scene.take(), "done")

    assert await scene.submit(request(job(), kept=True), request(job()), results=1) == ["full", "accepted"]


async def results_that_ended_no_longer_count(scene: Scene) -> None:
    await scene.answer(await scene.take(), "done", ttl_s=SHORT_S)
    await let_pass(scene.redis, SHORT_S)

    assert await scene.submit(request(job(), kept=True), results=1) == ["accepted"]


async def jobs_that_ended_a_minute_ago_are_swept(scene: Scene) -> None:
    old = job()
    await scene.submit(request(old), request(job()))
    await scene.ask("ZINCRBY deadlines", -100_000, old.uuid)

    for _ in range(16):
        await scene.submit(request(job()))

    assert await scene.queue.poll([old.uuid]) == [Progress.UNKNOWN]
    assert await scene.queue.depth() == 17


async def each_new_job_rings_once_up_to_a_bound(scene: Scene) -> None:
    await scene.submit(request(*(job() for _ in range(3))))
    assert await scene.ask("LLEN bell") == 3

    await scene.submit(request(*(job() for _ in range(90))))
    assert await scene.ask("LLEN bell") == 64


async def without_memory_only_what_frees_it_is_done(scene: Scene) -> None:
    claim = await scene.take(2, n=1)
    await scene.beat()
    await scene.redis.config_set("maxmemory", 1)
    try:
        assert await scene.submit(request(job())) == ["no_memory"]
        assert await scene.answer(claim, "done") == 1
        assert await scene.answer(await scene.claim(), "done") == 1
        assert (await scene.claim()).jobs == ()
        assert await scene.beat() == []
        await scene.queue.drop([one.uuid for one in claim.jobs])
    finally:
        await scene.redis.config_set("maxmemory", 0)
    assert await scene.queue.depth() == 0


async def the_first_answer_stays(scene: Scene) -> None:
    claim = await scene.take()

    assert await scene.answer(claim, "first") == 1
    assert await scene.answer(claim, "second") == 0
    assert await scene.fail(claim) == 0
    assert await scene.polled(claim) == ['"first"']
    assert await scene.queue.depth() == 0


async def a_late_answer_is_welcome_and_a_late_error_is_not(scene: Scene) -> None:
    late = await scene.take(crash=True)
    assert await scene.fail(late) == await scene.release(late) == 0, "its lease has ended"
    await scene.claim("other")
    assert await scene.fail(late) == await scene.release(late) == 0, "another has it"

    assert await scene.answer(late, "late") == 1
    assert await scene.polled(late) == ['"late"']


async def an_answer_from_before_a_release_takes_the_job_out_of_line(scene: Scene) -> None:
    claim = await scene.take(2)
    await scene.release(claim)

    assert await scene.fail(claim) == 0
    assert await scene.answer(claim, "done") == 2
    assert (await scene.claim()).jobs == ()


async def released_jobs_go_back_to_the_head_as_they_were(scene: Scene) -> None:
    first = await scene.take(3)
    await scene.submit(request(job()))
    await scene.ask("DEL bell")

    assert await scene.release(first, "model_unavailable") == 3

    assert await scene.ask("LLEN bell") == 3
    again = await scene.claim(n=3)
    assert [one.uuid for one in again.jobs] == [one.uuid for one in first.jobs]
    assert {one.last_code for one in again.jobs} == {"model_unavailable"}
    await scene.release(again)
    assert (await scene.claim(n=1)).jobs[0].last_code == "model_unavailable"


async def a_job_can_be_given_back_behind_all_others(scene: Scene) -> None:
    first = await scene.take()
    others = [job(), job()]
    await scene.submit(request(*others))

    assert await scene.release(first, "model_unavailable", kind="behind") == 1

    again = await scene.claim(n=3)
    assert [one.uuid for one in again.jobs] == [*(one.uuid for one in others), first.jobs[0].uuid]
    assert (again.jobs[-1].last_code, again.suspect) == ("model_unavailable", False)
    assert await scene.ask("HGET stats", "released") == b"1"


async def jobs_of_a_model_that_was_ended_are_suspects_as_after_a_death(scene: Scene) -> None:
    """They come back first, in groups of an eighth, then alone; the last of their deaths alone is one too many."""
    claim = await scene.take(8)
    await scene.submit(request(job()))
    await scene.ask("DEL bell")
    assert await scene.release(claim, "model_unavailable", kind="died") == 8
    assert await scene.ask("LLEN bell") == 8

    groups = [await scene.claim(n=32) for _ in range(2)]
    assert [[one.uuid for one in group.jobs] for group in groups] == [
        [one.uuid for one in claim.jobs[:4]],
        [one.uuid for one in claim.jobs[4:]],
    ]
    assert all(group.suspect for group in groups)
    assert await scene.release(groups[0], kind="died") == 4
    for _ in range(2):
        alone = await scene.claim(n=32, max_solo=2)
        assert [(one.uuid, one.verdict) for one in alone.jobs] == [(claim.jobs[0].uuid, "run")]
        assert await scene.release(alone, kind="died") == 1
        assert await scene.release(alone, kind="died") == 0, "it is no longer held"
    last = await scene.claim(n=32, max_solo=2)
    assert [(one.uuid, one.verdict) for one in last.jobs] == [
        (claim.jobs[0].uuid, "poison"),
        (claim.jobs[1].uuid, "run"),
    ]
    assert await scene.ask("HGET stats", "died") == b"14"
    assert await scene.ask("HGET stats", "released") is None


async def whose_lease_has_ended_counts_no_second_death(scene: Scene) -> None:
    late = await scene.take(crash=True)

    assert await scene.release(late, kind="died") == await scene.release(late, kind="behind") == 0

    assert (await scene.claim("other")).suspect
    assert (await scene.ask("HGET meta", late.jobs[0].uuid)).split(b" ")[1] == b"1"


async def an_error_is_told_as_one_and_only_the_dead_are_buried(scene: Scene) -> None:
    failed, dead = await scene.take(), await scene.take()
    await scene.fail(failed)
    await scene.fail(dead, dead=True)

    letters = [read_dead_letter(raw) for raw in await scene.ask("LRANGE dead", 0, -1)]

    assert [letter.result.uuid for letter in letters] == [dead.jobs[0].uuid]
    assert letters[0].payload == dead.jobs[0].payload
    assert await scene.polled(failed) == await scene.polled(dead) == ["null"]


async def lists_that_nobody_reads_have_a_bound(scene: Scene) -> None:
    await scene.ask("RPUSH dead", *["old"] * 1000)
    await scene.ask("RPUSH bell:api", *["old"] * 1024)

    await scene.fail(await scene.take(), dead=True)

    assert await scene.ask("LLEN dead") == 1000
    assert await scene.ask("LLEN bell:api") == 1024


async def a_short_result_rides_in_the_bell_and_a_long_one_is_named(scene: Scene) -> None:
    short, long = await scene.take(), await scene.take()
    await scene.answer(short, "s")
    await scene.answer(long, "l" * 20_000)

    tokens = await scene.queue.listen("api", 1.0)

    assert [token.partition(b"\n")[2] for token in tokens] == [b'"s"', b""]
    assert tokens[1] == long.jobs[0].uuid.encode()


async def what_is_left_of_a_life_ends_by_itself(scene: Scene) -> None:
    settled, cancelled = await scene.take(), await scene.take()
    await scene.answer(settled, "done")
    await scene.queue.drop([one.uuid for one in cancelled.jobs])
    assert await scene.keys_without_ttl() <= {"results", *ALWAYS, "bell"}

    await scene.queue.drop([one.uuid for one in settled.jobs])
    await scene.claim()

    assert await scene.keys_without_ttl() <= ALWAYS


async def a_dropped_job_leaves_no_trace_wherever_it_was(scene: Scene) -> None:
    settled, leased = await scene.take(), await scene.take()
    await scene.answer(settled, "done")
    waiting = job()
    await scene.submit(request(waiting))
    uuids = [settled.jobs[0].uuid, leased.jobs[0].uuid, waiting.uuid]

    await scene.queue.drop(uuids)

    assert await scene.queue.audit() == []
    assert await scene.queue.poll(uuids) == [Progress.UNKNOWN] * 3
    assert await scene.answer(leased, "late") == 0
    assert await scene.submit(request(job(), kept=True), results=1) == ["accepted"]
    assert len((await scene.claim()).jobs) == 1


async def a_job_past_its_deadline_is_overdue_unless_it_runs(scene: Scene) -> None:
    early, late = request(job()), late_request()
    await scene.submit(early, late)
    await let_pass(scene.redis, SHORT_S)
    uuids = [early.jobs[0].uuid, late.jobs[0].uuid, "stranger"]

    assert await scene.queue.poll(uuids) == [Progress.WORKING, Progress.OVERDUE, Progress.UNKNOWN]
    await scene.claim()
    assert await scene.queue.poll(uuids) == [Progress.WORKING, Progress.WORKING, Progress.UNKNOWN]


async def an_audit_sees_what_is_torn(scene: Scene) -> None:
    leased = (await scene.take(2, n=1)).jobs[0].uuid
    waiting = (await scene.ask("LINDEX pending", 0)).decode()
    damages: tuple[tuple[str, str, tuple[str | float, ...], str, tuple[str | float, ...]], ...] = (
        ("twice in pending", "LPUSH pending", (waiting,), "LPOP pending", ()),
        ("in pending, not in meta", "LPUSH pending", ("stranger",), "LPOP pending", ()),
        ("in pending and in leases", "LPUSH pending", (leased,), "LPOP pending", ()),
        ("neither in pending nor in leases", "RPOP pending", (), "RPUSH pending", (waiting,)),
        ("its claim id and its lease disagree", "ZADD leases", (9, waiting), "ZREM leases", (waiting,)),
        ("in leases, not in meta", "ZADD leases", (9, "stranger"), "ZREM leases", ("stranger",)),
        ("deadlines hold more", "ZADD deadlines", (9, "stranger"), "ZREM deadlines", ("stranger",)),
        ("data hold more", "HSET data", ("stranger", "x"), "HDEL data", ("stranger",)),
        ("has a time to live", "PEXPIRE meta", (60_000,), "PERSIST meta", ()),
    )
    for sentence, damage, values, repair, undone in damages:
        await scene.ask(damage, *values)

        assert any(sentence in violation for violation in await scene.queue.audit()), sentence
        await scene.ask(repair, *undone)
