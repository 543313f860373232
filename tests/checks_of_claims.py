"""What must hold of claims, leases, deaths, shares and beats; each check is quick and depends on no timing.

A check raises AssertionError where its property is broken; so does the end of its scene where the queue is.
"""

from __future__ import annotations

from records import Claim, Progress
from tests.clock import let_pass
from tests.scene import SHORT_S, Scene, late_request
from tests.test_jobs import job, request


def uuids(*claims: Claim) -> list[str]:
    return [one.uuid for claim in claims for one in claim.jobs]


async def jobs_are_given_in_the_order_submitted_each_with_its_image(scene: Scene) -> None:
    jobs = [job(value) for value in range(5)]
    await scene.submit(*(request(one) for one in jobs))

    first, second = await scene.claim(n=3), await scene.claim(n=3)

    assert [(one.uuid, one.payload) for one in (*first.jobs, *second.jobs)] == [(one.uuid, one.payload) for one in jobs]
    assert (len(first.jobs), first.left, second.left) == (3, 2, 0)


async def the_same_claim_gets_what_is_left_of_its_jobs(scene: Scene) -> None:
    await scene.submit(request(*(job() for _ in range(4))))
    first = await scene.claim(claim_id="repeated", n=3)
    await scene.queue.drop([first.jobs[0].uuid])
    await scene.release(Claim("repeated", first.jobs[1:2], 0, None, 0.0, suspect=False))

    again = await scene.claim(claim_id="repeated")

    assert uuids(again) == [first.jobs[2].uuid]
    assert len((await scene.claim()).jobs) == 2


async def an_ended_lease_gives_its_jobs_to_another_and_a_running_one_does_not(scene: Scene) -> None:
    dead = await scene.take(2, crash=True)

    other = await scene.claim(n=16)

    assert sorted(uuids(other)) == sorted(uuids(dead))
    assert (await scene.claim(n=16)).jobs == ()
    assert (await scene.claim(claim_id=dead.id)).jobs == ()


async def jobs_that_died_run_in_shrinking_groups_apart_from_others(scene: Scene) -> None:
    await scene.take(3, crash=True)
    await scene.submit(request(*(job() for _ in range(8))))

    assert [len((await scene.claim(n=16)).jobs) for _ in range(3)] == [2, 1, 8]


async def jobs_that_died_twice_run_alone(scene: Scene) -> None:
    await scene.take(3, crash=True)
    await scene.crash(n=24)

    assert [len((await scene.claim(n=16)).jobs) for _ in range(3)] == [1, 1, 1]


async def only_deaths_alone_make_a_job_poison(scene: Scene) -> None:
    await scene.take(2, crash=True)
    twice = await scene.crash(n=16, max_solo=1)
    assert [one.verdict for one in twice.jobs] == ["run", "run"]

    verdicts = [sorted(one.verdict for one in (await scene.crash(max_solo=1)).jobs) for _ in range(3)]

    assert verdicts == [["run"], ["poison", "run"], ["poison", "poison"]]


async def poison_comes_after_as_many_deaths_alone_as_allowed(scene: Scene) -> None:
    await scene.submit(request(job()))

    verdicts = [(await scene.crash(max_solo=2)).jobs[0].verdict for _ in range(3)]

    assert verdicts == ["run", "run", "poison"]


async def a_job_given_back_after_it_was_alone_is_not_suspected(scene: Scene) -> None:
    await scene.release(await scene.take())
    await scene.submit(request(job()))
    await scene.crash(n=8)

    assert [one.verdict for one in (await scene.claim(n=16, max_solo=1)).jobs] == ["run", "run"]


async def who_holds_jobs_gets_none_that_ever_died(scene: Scene) -> None:
    await scene.take(2, crash=True)
    await scene.submit(request(job()))

    ahead = await scene.claim(n=16, holding=True)
    suspects = await scene.claim(n=16)

    assert ahead.jobs == ()
    assert (len(suspects.jobs), suspects.suspect) == (2, True)
    assert (await scene.claim(claim_id=suspects.id)).suspect
    assert not (await scene.claim(holding=True)).suspect


async def who_holds_jobs_gets_none_while_another_is_idle(scene: Scene) -> None:
    await scene.claim("idle")
    await scene.submit(request(job(), job()))

    assert (await scene.claim("busy", holding=True)).jobs == ()
    assert len((await scene.claim("idle")).jobs) == 2


async def a_job_claimed_beside_others_was_not_alone(scene: Scene) -> None:
    await scene.submit(request(job()))
    ahead = await scene.claim(holding=True, lease_s=SHORT_S)
    await let_pass(scene.redis, SHORT_S)

    again = await scene.claim(max_solo=1)

    assert [(one.uuid, one.verdict) for one in again.jobs] == [(ahead.jobs[0].uuid, "run")]


async def who_holds_jobs_and_gets_none_is_not_idle(scene: Scene) -> None:
    await scene.claim("busy", holding=True)
    await scene.submit(request(job(), job()))

    assert len((await scene.claim("other")).jobs) == 2


async def what_cannot_finish_in_time_is_not_run_and_takes_nobodys_place(scene: Scene) -> None:
    await scene.submit(late_request(), request(job()), request(job()))
    await let_pass(scene.redis, SHORT_S)

    claim = await scene.claim(n=2)

    assert [one.verdict for one in claim.jobs] == ["expired", "run", "run"]


async def a_job_needs_the_least_time_that_a_batch_takes(scene: Scene) -> None:
    await scene.submit(request(job(), remaining_s=20), request(job(), remaining_s=40))

    claim = await scene.queue.claim(
        "claim", worker_id="worker", max_batch_size=8, lease_s=60, least_s=30, max_solo=3, max_wait_s=0, block_s=0
    )

    assert [one.verdict for one in claim.jobs] == ["expired", "run"]
    assert 0 < claim.jobs[0].remaining_s <= 20


async def idle_workers_share_what_is_there(scene: Scene) -> None:
    for name in ("one", "two"):
        await scene.claim(name)
    await scene.submit(request(*(job() for _ in range(6))))

    assert [len((await scene.claim(name)).jobs) for name in ("one", "two")] == [3, 3]


async def a_worker_that_is_silent_or_gone_gets_no_share(scene: Scene) -> None:
    for name in ("one", "silent", "gone"):
        await scene.claim(name)
    await scene.ask("ZINCRBY idle", -5_000, "silent")
    await scene.beat(worker="gone", state="gone")
    await scene.submit(request(*(job() for _ in range(6))))

    assert len((await scene.claim("one")).jobs) == 6


async def a_batch_waits_for_company_and_no_longer_than_told(scene: Scene) -> None:
    await scene.submit(request(job()))

    early = await scene.claim(max_wait_s=60)
    assert early.jobs == ()
    assert 0 < early.wait_s <= 60
    await let_pass(scene.redis, SHORT_S)
    assert len((await scene.claim(max_wait_s=SHORT_S)).jobs) == 1


async def the_share_of_what_an_api_still_decodes_is_waited_for(scene: Scene) -> None:
    await scene.claim("idle")
    await scene.submit(request(job(), job()), arriving=3)

    early = await scene.claim(patience_s=60)
    assert early.jobs == ()
    assert 0 < early.wait_s <= 60
    assert len((await scene.claim(n=2, patience_s=60)).jobs) == 1
    await scene.submit(request(job(), job()), arriving=1)
    assert len((await scene.claim(patience_s=60)).jobs) == 2


async def who_has_its_share_waits_for_nothing_on_its_way(scene: Scene) -> None:
    await scene.claim("idle")
    await scene.submit(request(*(job() for _ in range(3))), arriving=3)

    assert len((await scene.claim(patience_s=60)).jobs) == 3


async def who_does_not_wait_takes_its_share_of_what_is_there(scene: Scene) -> None:
    await scene.claim("idle")
    await scene.submit(request(*(job() for _ in range(4))), arriving=4)

    assert len((await scene.claim()).jobs) == 2


async def nobody_waits_for_what_is_on_its_way_longer_than_told(scene: Scene) -> None:
    await scene.submit(request(job(), job()), arriving=3)
    await let_pass(scene.redis, SHORT_S)

    assert len((await scene.claim(patience_s=SHORT_S)).jobs) == 2
    await scene.submit(request(job()), arriving=3)
    assert len((await scene.claim()).jobs) == 1
    await scene.submit(request(job()), arriving=3)
    assert len((await scene.claim(patience_s=60, holding=True)).jobs) == 1


async def what_was_on_its_way_is_soon_no_news(scene: Scene) -> None:
    await scene.submit(request(job()), arriving=3)
    await let_pass(scene.redis, 0.1)

    assert len((await scene.claim(patience_s=60)).jobs) == 1
    await scene.submit(request(job()), arriving=3)
    await scene.submit(request(job()))
    assert len((await scene.claim(patience_s=60)).jobs) == 2


async def a_full_batch_waits_for_nobody_and_is_not_shared(scene: Scene) -> None:
    await scene.claim("idle")
    await scene.submit(request(*(job() for _ in range(8))))

    assert len((await scene.claim(max_wait_s=60)).jobs) == 8


async def a_claim_rings_for_what_it_leaves_and_takes_the_bell_down_when_nothing_is_left(scene: Scene) -> None:
    await scene.submit(request(job(), job(), job()))
    await scene.ask("DEL bell")

    await scene.claim(n=1)
    assert await scene.ask("LLEN bell") == 1
    await scene.claim()
    assert await scene.ask("LLEN bell") == 0


async def a_claim_tells_when_the_next_lease_ends(scene: Scene) -> None:
    await scene.submit(request(job(), job()))
    first = await scene.claim(n=1, lease_s=60)
    second = await scene.claim(n=1, lease_s=600)

    assert first.lease_end_s == 60
    assert second.lease_end_s is not None
    assert 0 < second.lease_end_s <= 60
    assert (await scene.claim()).lease_end_s is not None


async def a_torn_job_is_thrown_out_and_its_neighbour_runs(scene: Scene) -> None:
    for command in ("HDEL data", "ZREM deadlines"):
        torn, whole = job(), job()
        await scene.submit(request(torn), request(whole))
        await scene.ask(command, torn.uuid)

        claim = await scene.claim()

        assert uuids(claim) == [whole.uuid]
        assert await scene.queue.poll([torn.uuid]) == [Progress.UNKNOWN]


async def a_job_that_lost_its_row_is_thrown_out_from_line_and_from_a_lease(scene: Scene) -> None:
    waiting = job()
    leased = (await scene.take(crash=True)).jobs[0].uuid
    await scene.submit(request(waiting))
    await scene.ask("HDEL meta", waiting.uuid, leased)

    assert (await scene.claim()).jobs == ()
    assert await scene.queue.poll([waiting.uuid, leased]) == [Progress.UNKNOWN] * 2
    assert await scene.queue.depth() == 0


async def a_beat_keeps_a_lease_and_never_shortens_it(scene: Scene) -> None:
    first = await scene.take(crash=True)
    assert await scene.beat(first) == [True]
    assert (await scene.claim()).jobs == ()

    assert await scene.beat(first, lease_s=SHORT_S) == [True]
    await let_pass(scene.redis, SHORT_S)

    assert (await scene.claim()).jobs == ()
    assert await scene.fail(first) == 1


async def a_beat_keeps_nothing_that_is_no_longer_its_own(scene: Scene) -> None:
    late = await scene.take(crash=True)
    other = await scene.crash()
    assert uuids(other) == uuids(late)

    assert await scene.beat(late) == [False]

    assert uuids(await scene.claim()) == uuids(late)
    await scene.queue.drop(uuids(late))
    assert await scene.beat(late) == [False]


async def a_beat_shows_who_lives_and_forgets_who_is_gone_or_silent(scene: Scene) -> None:
    await scene.ask("HSET workers", "silent", f"{await scene.now_ms() - 61_000} idle {{}}")
    await scene.ask("HSET workers", "quiet", f"{await scene.now_ms() - 30_000} idle {{}}")
    await scene.beat(worker="gone")
    await scene.beat(worker="gone", state="gone")
    await scene.beat(worker="alive", state="idle")

    assert sorted(await scene.ask("HKEYS workers")) == [b"alive", b"quiet"]
    assert [(one.id, one.state) for one in await scene.queue.workers()] == [("alive", "idle")]
