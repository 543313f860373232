"""The measuring measures: what is counted is what was answered, and ratios are those of one turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import depths, report
from bench.growth import Step, tables
from bench.load import closed_loop, open_loop, request_bytes
from bench.measuring import Row
from bench.parts import Target, floor
from bench.tables import table
from bench.workloads import photos, tensors


@pytest.fixture(scope="module")
def least() -> Iterator[Target]:
    with floor() as target:
        yield target


def requests(target: Target, *, path: bytes = b"/predict") -> list[bytes]:
    work = tensors()
    whole = [request_bytes(target.url, body, work.content_type) for body in work.bodies]
    return [one.replace(b"/predict", path, 1) for one in whole]


async def test_a_closed_loop_counts_answers_and_takes_processor_time_of_the_target(least: Target) -> None:
    before = sum(least.cpu_s().values())
    load = await closed_loop(least.url, requests(least), clients=4, seconds=0.5)

    assert load.statuses == {200: len(load.latencies_s)}
    assert load.rate * 0.5 == len(load.latencies_s) > 4
    assert 0 < load.quantile_ms(0.5) <= load.quantile_ms(0.99) < 500
    assert 0 < sum(least.cpu_s().values()) - before < 5


async def test_answers_that_are_none_count_as_errors(least: Target) -> None:
    load = await closed_loop(least.url, requests(least, path=b"/nowhere"), clients=2, seconds=0.2)

    assert (load.rate, load.errors) == (0, len(load.latencies_s))
    assert load.errors > 0


async def test_an_open_loop_sends_at_its_rate_whatever_comes_back(least: Target) -> None:
    load = await open_loop(least.url, requests(least), rate=200, seconds=1.0, clients=8)

    assert 120 < len(load.latencies_s) < 280
    assert load.errors == 0


def row(target: str, turn: int, per_s: float) -> Row:
    return Row("plan", target, reference=target != "ours", load="16", turn=turn, per_s=per_s, p50_ms=per_s, p99_ms=None)


def test_a_ratio_is_the_median_of_the_ratios_of_each_turn() -> None:
    figures = [("floor", 100.0), ("ours", 50.0), ("floor", 1000.0), ("ours", 900.0), ("floor", 10.0), ("ours", 7.0)]
    rows = [row(target, number // 2, per_s) for number, (target, per_s) in enumerate(figures)]

    *_, line = table(report.cells(rows))

    assert line.split() == ["plan", "16", "50", "floor", "100", "0.70", "50.00", "100.00"]


def test_the_readme_has_a_place_for_the_figures() -> None:
    assert report.section("bench").search(report.README.read_text())


def test_photos_are_of_about_fifty_kilobytes_and_all_different() -> None:
    bodies = photos().bodies

    assert len(set(bodies)) == len(bodies)
    assert all(40_000 < len(body) < 60_000 for body in bodies)


def test_jobs_that_wait_stay_while_batches_go_through_the_queue() -> None:
    few, more = depths.measure((3, 40), seconds=0.2)

    assert (few.depth, more.depth) == (3, 40)
    for look in (few, more):
        assert look.per_s > depths.BATCH
        assert 0 < look.p50_ms <= look.p99_ms < 200
        assert look.redis_cores > 0


def test_growth_is_a_table_a_plan() -> None:
    cores = {"api": 0.5, "batcher": 0.25, "redis": 0.125}
    steps = [Step(plan, grown, 1234.5, 1.0, 2.0, 0.2, cores) for plan, grown in (("a", "1"), ("a", "2"), ("b", "9"))]

    lines = list(tables(steps, markdown=True))

    assert [line.split()[1] for line in lines if line and "--" not in line] == ["a", "1", "2", "b", "9"]
    assert lines[2].replace(" ", "") == "|1|1,234|1.00|2.00|0.200|0.50|0.25|0.12|"
