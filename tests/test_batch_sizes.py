"""Batches come in the sizes that a model is made for and has memory for; what was added never shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from batch_sizes import PROBE_S, BatchSizes
from batching import Batch, group
from errors import tells_of_no_memory
from records import ClaimedJob
from tests.test_inference import Bench, jobs, result


def batch(count: int, side: int = 2) -> Batch:
    job = ClaimedJob("uuid", "run", 30.0, 0.0, "api", "", b"")
    [stacked] = group([(job, np.full((side,), number, np.uint8)) for number in range(count)])
    return stacked


def lengths(sizes: BatchSizes, count: int, side: int = 2) -> list[int]:
    return [len(part.jobs) for part in sizes.split(batch(count, side))]


@pytest.mark.parametrize(
    ("allowed", "count", "padded"),
    [((), 5, 5), ((1, 4, 8), 1, 1), ((1, 4, 8), 2, 4), ((1, 4, 8), 4, 4), ((1, 4, 8), 5, 8), ((4,), 9, 9)],
)
def test_a_batch_is_padded_to_the_next_size_with_its_last_row(
    allowed: tuple[int, ...], count: int, padded: int
) -> None:
    found = batch(count).take(BatchSizes(allowed).padded(count))

    assert len(found) == padded
    assert (found[:count] == np.arange(count)[:, None]).all()
    assert (found[count:] == count - 1).all()


def test_a_batch_over_the_largest_size_is_cut() -> None:
    assert lengths(BatchSizes((2, 4)), 9) == [4, 4, 1]


def test_a_shape_without_memory_gets_half_and_grows_again_slowly() -> None:
    sizes = BatchSizes()

    assert sizes.overflowed(batch(32), now_s=0.0)
    assert lengths(sizes, 32) == [16, 16]
    assert lengths(sizes, 32, side=3) == [32]

    sizes.passed(batch(16), now_s=PROBE_S - 1)
    sizes.passed(batch(15), now_s=PROBE_S)
    assert lengths(sizes, 32) == [16, 16]

    sizes.passed(batch(16), now_s=PROBE_S)
    sizes.passed(batch(18), now_s=PROBE_S)
    assert lengths(sizes, 32) == [18, 14]


def test_of_allowed_sizes_the_next_smaller_one_is_left_while_there_is_one() -> None:
    sizes = BatchSizes((2, 8))

    assert sizes.overflowed(batch(5), now_s=0.0)
    assert lengths(sizes, 5) == [2, 2, 1]
    assert not sizes.overflowed(batch(1), now_s=0.0)


def test_one_image_that_is_too_much_alone_says_nothing_of_the_others() -> None:
    sizes = BatchSizes()
    sizes.overflowed(batch(32), now_s=0.0)

    assert not sizes.overflowed(batch(1), now_s=0.0)
    assert lengths(sizes, 32) == [32]


@pytest.mark.parametrize(
    ("text", "tells"),
    [
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("MemoryError: ", True),
        ("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.", True),
        ("ResourceExhaustedError: OOM when allocating tensor with shape[32,224,224,3]", True),
        ("RuntimeException: [ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer", True),
        ("RuntimeError: std::bad_alloc", True),
        ("ValueError: the ROOM is too small", False),
        ("timeout exceeded while waiting in batching queue", False),
    ],
)
def test_what_frameworks_say_of_memory_is_understood(text: str, tells: bool) -> None:  # noqa: FBT001  # a parameter
    assert tells_of_no_memory(text) is tells


def numbers(rows: NDArray[Any]) -> list[int]:
    return [int(row) for row in rows[:, 0]]


async def test_padding_never_shows_in_an_answer() -> None:
    given = jobs(5)
    bench = Bench(numbers, sizes=BatchSizes((1, 4)))

    settled = await bench.run(given)

    assert bench.calls == [4, 1]
    assert [result(settled[job.uuid]).prediction for job in given] == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_guilty_image_in_a_padded_batch_fails_alone() -> None:
    def model(rows: NDArray[Any]) -> Sequence[object]:
        return [1 // (number - 2) for number in numbers(rows)]

    given = jobs(3)
    settled = await Bench(model, sizes=BatchSizes((4,))).run(given)

    assert [settled[job.uuid].kind for job in given] == ["ok", "ok", "error"]


async def test_a_model_that_gives_too_few_for_a_padded_batch_fails() -> None:
    given = jobs(3)
    settled = await Bench(lambda rows: numbers(rows)[:3], sizes=BatchSizes((4,))).run(given)

    assert {settled[job.uuid].kind for job in given} == {"error"}


async def test_a_batch_without_memory_is_run_in_parts_and_the_next_one_is_smaller_at_once() -> None:
    def model(rows: NDArray[Any]) -> Sequence[object]:
        if len(rows) > 8:
            raise RuntimeError("CUDA out of memory")
        return numbers(rows)

    bench = Bench(model)
    first = await bench.run(jobs(32))
    calls = list(bench.calls)
    second = await bench.run(jobs(32))

    assert {one.kind for one in (*first.values(), *second.values())} == {"ok"}
    assert calls == [32, 16, 8, 8, 16, 8, 8]
    assert bench.calls[len(calls) :] == [8, 8, 8, 8]
