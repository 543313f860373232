"""What is counted, how it is added up, and what Prometheus and a live view make of it."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exposition import GAUGES, of_process, of_queues
from looks import Look
from metrics import BATCHES, FAMILIES, PADDING, SECONDS, Measured, Metrics
from overview import Watch, quantile
from records import Work, Worker


def look(at_s: float, totals: dict[str, float], workers: tuple[Worker, ...] = ()) -> Look:
    return Look(at_s, 3, 2, 1, 0.25, 0, 0, {"submitted": 7, "buried": 2}, totals, (), workers)


def samples(text: bytes) -> dict[str, float]:
    """Return what Prometheus's own parser reads."""
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_value_at_the_end_of_a_bucket_belongs_to_it() -> None:
    measured = Measured("m", (1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        measured.see(value)

    assert measured.take() == {"m 1": 2, "m 2": 2, "m inf": 1, "m sum": 7.5}
    assert measured.take() == {}


def test_what_was_taken_is_not_taken_again_but_stays_in_the_totals() -> None:
    metrics = Metrics()
    metrics.count(BATCHES, "idle")
    first = dict(metrics.take())
    metrics.count(BATCHES, "idle")
    metrics.count(PADDING, by=3)
    all_together = dict(metrics.add_up())

    assert first == {"batches idle": 1}
    assert metrics.take() == {"batches idle": 1, "padding_images": 3}
    assert all_together == {"batches idle": 2, "padding_images": 3}


def test_nothing_gathers_where_metrics_are_off() -> None:
    metrics = Metrics(on=False)
    metrics.answered(200, "ok", 0.1)
    metrics.redis_replied("submit", 0.1)

    assert metrics.take() == {"requests 200 ok": 1}


def test_a_process_shows_every_family_under_its_labels() -> None:
    metrics = Metrics()
    metrics.answered(200, "ok", 0.004)
    metrics.redis_replied("submit", 0.0004)
    found = samples(of_process(metrics.add_up(), {"worker": "w1"}))

    assert found["microbatch_requests_total[('code', 'ok'), ('status', '200'), ('worker', 'w1')]"] == 1
    assert found["microbatch_request_seconds_bucket[('le', '0.003'), ('worker', 'w1')]"] == 0
    assert found["microbatch_request_seconds_bucket[('le', '0.005'), ('worker', 'w1')]"] == 1
    assert found["microbatch_request_seconds_count[('worker', 'w1')]"] == 1
    assert found["microbatch_redis_seconds_sum[('script', 'submit'), ('worker', 'w1')]"] == pytest.approx(0.0004)


def test_a_queue_shows_how_it_stands_and_what_nothing_was_counted_of_yet() -> None:
    text = of_queues({"q": look(1.0, {"batch_size 4": 2.0, "batch_size sum": 7.0})}, worker_timeouts_s={"q": 5})
    found = samples(text)

    assert found["microbatch_redis_up[('queue', 'q')]"] == 1
    assert found["microbatch_jobs_submitted_total[('queue', 'q')]"] == 7
    assert found["microbatch_jobs_given_up_total[('queue', 'q')]"] == 2
    assert found["microbatch_batch_size_sum[('queue', 'q')]"] == 7
    assert found["microbatch_model_seconds_count[('queue', 'q')]"] == 0
    assert {f"microbatch_{gauge}[('queue', 'q')]" for gauge in GAUGES} <= found.keys()


def test_fields_of_another_version_are_left_out() -> None:
    totals = {"batch_size 4 more": 1.0, "unknown 1": 1.0, "padding_images x": 1.0, "requests 200": 1.0, "": 1.0}
    found = samples(of_queues({"q": look(1.0, totals)}, worker_timeouts_s={"q": 5}))

    assert found["microbatch_padding_images_total[('queue', 'q')]"] == 0
    assert not [name for name in found if "unknown" in name or "requests_total" in name]


def test_a_queue_whose_redis_is_away_shows_only_that() -> None:
    found = samples(of_queues({"q": None}, worker_timeouts_s={"q": 5}))

    assert found == {"microbatch_redis_up[('queue', 'q')]": 0}


def test_names_carry_their_units_and_buckets_reach_from_a_millisecond_to_a_minute() -> None:
    assert all(family.name.endswith("_seconds") == (family.buckets == SECONDS) for family in FAMILIES)
    assert (SECONDS[0], SECONDS[-1], list(SECONDS)) == (0.001, 60.0, sorted(SECONDS))


def test_a_quantile_lies_within_its_bucket() -> None:
    buckets = {1.0: 50.0, 2.0: 40.0, float("inf"): 10.0}

    assert quantile(buckets, 0.5) == 1.0
    assert quantile(buckets, 0.7) == 1.5
    assert quantile(buckets, 0.99) == 2.0
    assert quantile(dict.fromkeys(buckets, 0.0), 0.5) is None


def test_an_overview_shows_the_last_second() -> None:
    watch = Watch(worker_timeout_s=5)
    counted = [
        (100.0, 1000.0, 10.0),
        (100.5, 1100.0, 10.0),
        (101.0, 1200.0, 12.0),
        (101.5, 1300.0, 12.0),
    ]
    seen = [
        watch.see(look(at_s, {"requests 200 ok": requests, "requests 503 unavailable": 4.0, "batch_size 8": batches}))
        for at_s, requests, batches in counted
    ]

    assert (seen[0].requests_per_s, seen[0].p50_s) == (0, None)
    assert [round(one.requests_per_s) for one in seen[1:]] == [200, 200, 200]
    assert [one.batch_sizes["8"] for one in seen] == [0, 0, 2, 0]
    assert seen[3].errors_per_s == 0


def test_an_overview_goes_on_after_redis_was_emptied() -> None:
    watch = Watch(worker_timeout_s=5)
    watch.see(look(100.0, {"requests 200 ok": 1000.0, "requests 500 model_failed": 9.0}))
    after = watch.see(look(101.0, {"requests 200 ok": 5.0}))

    assert (after.requests_per_s, after.errors_per_s) == (5, 0)


def test_a_worker_is_as_busy_as_its_last_two_words_say_and_gone_once_silent() -> None:
    def at(beat_s: float, busy_s: float, silent_s: float) -> Worker:
        work = Work(batches=int(busy_s * 10), images=int(busy_s * 80), busy_s=busy_s)
        return Worker("w", "busy", silent_s, None, 0.1, "m", work, beat_s)

    watch = Watch(worker_timeout_s=5)
    watch.see(look(100.0, {}, (at(100.0, 1.0, 0.0),)))
    watch.see(look(100.5, {}, (at(100.0, 1.0, 0.5),)))
    (working,) = watch.see(look(101.0, {}, (at(101.0, 1.5, 0.0),))).workers
    (gone,) = watch.see(look(107.0, {}, (at(101.0, 1.5, 6.0),))).workers

    assert (working.state, working.busy, working.batches_per_s, working.images_per_s) == ("busy", 0.5, 5, 40)
    assert (gone.state, gone.busy, gone.silent_s) == ("gone", 0, 6)


def test_an_overview_goes_on_where_the_clock_of_another_redis_is_behind() -> None:
    watch = Watch(worker_timeout_s=5)
    for at_s, requests in ((100.0, 5.0), (40.0, 7.0), (41.0, 19.0)):
        seen = watch.see(look(at_s, {"requests 200 ok": requests}))

    assert seen.requests_per_s == 12


def test_the_row_of_a_worker_of_an_older_version_is_read() -> None:
    old = b'1000 idle {"model":"digits","takes":null,"batch_s":0.5}'
    newer = (
        b'1000 idle {"model":"digits","takes":null,"batch_s":0.5,"work":{"batches":1,"images":2,"busy_s":0.1,"x":3}}'
    )

    assert Worker.from_row("w", old, 1000.0).work == Work()
    assert Worker.from_row("w", newer, 1000.0).work == Work(1, 2, 0.1)
