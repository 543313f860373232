"""What must hold of the wait that is predicted, of deadlines, and of jobs that are sent again or cancelled.

A check raises AssertionError where its property is broken; so does the end of its scene where the queue is.
"""

from __future__ import annotations

from errors import DeadlineExceeded, ModelFailed, ModelUnavailable, NotFound, Unavailable
from records import Progress, Result
from tests.clock import let_pass
from tests.scene import SHORT_S, Scene
from tests.test_jobs import job, request


async def a_batch_that_runs_counts_whole_however_small_it_is(scene: Scene) -> None:
    await scene.take()

    assert await scene.submit_against(14.0, remaining_s=30.0) == "full"
    assert await scene.submit_against(13.0, remaining_s=30.0) == "accepted"


async def workers_share_the_batches_but_each_batch_takes_its_time(scene: Scene) -> None:
    await scene.submit(request(*(job() for _ in range(8))))

    assert await scene.submit_against(26.0, remaining_s=30.0, workers=4) == "full"
    assert await scene.submit_against(20.0, remaining_s=30.0, workers=4) == "accepted"


async def a_refusal_says_when_there_will_be_room_for_this_request(scene: Scene) -> None:
    await scene.submit(request(*(job() for _ in range(8))))

    by_wait = await scene.admission(20.0, remaining_s=30.0)
    by_depth = await scene.admission(4.0, remaining_s=30.0, depth=8)

    assert (by_wait.outcome, by_wait.room_in_s) == ("full", 13.0)  # two batches, of which 0.9 of its time is there
    assert (by_depth.outcome, by_depth.room_in_s) == ("full", 4.0)


async def a_full_list_of_results_says_when_the_first_one_ends(scene: Scene) -> None:
    await scene.answer(await scene.take(), "done", ttl_s=7.0)

    _depth, (refused,) = await scene.queue.submit(
        [request(job(), kept=True)], api_id="api", max_queue_depth=9, max_results=1, max_batch_size=8, batch_s=0.0
    )

    assert refused.outcome == "full"
    assert 5.0 < refused.room_in_s <= 7.0


async def who_joins_a_job_gives_it_his_time_and_takes_none_of_it(scene: Scene) -> None:
    one = job()
    await scene.submit(request(one, remaining_s=5.0))
    before = float(await scene.ask("ZSCORE deadlines", one.uuid))
    await scene.submit(request(one, remaining_s=60.0))
    raised = float(await scene.ask("ZSCORE deadlines", one.uuid))
    await scene.submit(request(one, remaining_s=1.0))

    assert raised - before > 50_000
    assert float(await scene.ask("ZSCORE deadlines", one.uuid)) == raised


async def without_memory_a_deadline_is_raised_all_the_same(scene: Scene) -> None:
    one = job()
    await scene.submit(request(one, remaining_s=5.0))
    before = float(await scene.ask("ZSCORE deadlines", one.uuid))
    await scene.redis.config_set("maxmemory", 1)
    try:
        assert await scene.submit(request(one, remaining_s=60.0)) == ["accepted"]
    finally:
        await scene.redis.config_set("maxmemory", 0)
    assert float(await scene.ask("ZSCORE deadlines", one.uuid)) - before > 50_000


async def a_job_that_came_too_late_goes_back_only_where_its_deadline_was_raised(scene: Scene) -> None:
    one, other = job(), job()
    await scene.submit(request(one, remaining_s=SHORT_S), request(other, remaining_s=SHORT_S))
    await let_pass(scene.redis, SHORT_S)
    claim = await scene.claim()
    await scene.submit(request(one, remaining_s=60.0))

    assert [given.verdict for given in claim.jobs] == ["expired", "expired"]
    assert await scene.come_too_late(claim, least_s=30.0) == 2

    mended, late = await scene.queue.poll([one.uuid, other.uuid])
    assert mended is Progress.WORKING
    assert isinstance(late, Result)
    assert isinstance(late.error, DeadlineExceeded)
    again = await scene.claim()
    assert [(given.uuid, given.verdict, given.payload) for given in again.jobs] == [(one.uuid, "run", one.payload)]


async def a_job_that_has_less_time_than_was_asked_for_is_late_for_good(scene: Scene) -> None:
    claim = await scene.take()

    assert await scene.come_too_late(claim, least_s=40.0) == 1

    assert isinstance((await scene.queue.poll([claim.jobs[0].uuid]))[0], Result)


async def an_error_that_another_try_may_mend_is_run_anew_and_others_stay(scene: Scene) -> None:
    errors = (ModelUnavailable("away"), Unavailable("away"), DeadlineExceeded("late"), ModelFailed("failed"))
    jobs = [await scene.failed_job(error) for error in errors]
    again = [request(one, kept=True) for one in jobs]

    assert await scene.submit(*again) == ["accepted"] * 4
    assert await scene.queue.depth() == 3
    progress = await scene.queue.poll([one.uuid for one in jobs])
    assert progress[:3] == [Progress.WORKING] * 3
    assert isinstance(progress[3], Result)
    claim = await scene.claim()
    await scene.answer(claim, "done")
    assert await scene.submit(*again) == ["accepted"] * 4, "a prediction is no error"
    assert await scene.queue.depth() == 0
    assert await scene.submit(request(job(), kept=True), results=4) == ["full"], "each counts once"


async def an_error_is_not_run_anew_for_who_was_not_promised_it(scene: Scene) -> None:
    one = await scene.failed_job(ModelUnavailable("away"))

    assert await scene.submit(request(one)) == ["accepted"]
    assert await scene.queue.depth() == 0


async def who_waits_for_a_cancelled_job_is_told_and_who_asks_anew_runs_it(scene: Scene) -> None:
    waiting, settled = job(), await scene.take()
    await scene.answer(settled, "done")
    await scene.submit(request(waiting))

    await scene.queue.cancel([waiting.uuid, settled.jobs[0].uuid])

    told, gone = await scene.queue.poll([waiting.uuid, settled.jobs[0].uuid])
    assert isinstance(told, Result)
    assert isinstance(told.error, NotFound)
    assert gone is Progress.UNKNOWN
    assert await scene.keys_without_ttl() <= {"stats", "workers", "idle", "bell"}
    assert await scene.submit(request(waiting, kept=True)) == ["accepted"]
    assert len((await scene.claim()).jobs) == 1
