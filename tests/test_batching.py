"""What goes together into one model call, and what a batch is expected to take."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from batching import REMEMBERED_BATCHES, BatchEstimate, group
from records import ClaimedJob, encoded_payload, read_payload, tensor_payload

Image = NDArray[Any] | bytes

tensors = st.builds(
    lambda shape, dtype, value: np.full(shape, value, dtype),
    st.sampled_from([(2, 2), (2, 3), (4,), (2, 2, 1)]),
    st.sampled_from(["uint8", "float32", "int16"]),
    st.integers(0, 255),
)
lines = st.lists(tensors | st.binary(max_size=8), max_size=20)


def claimed(image: Image) -> tuple[ClaimedJob, Image]:
    """Return a job and its image as the payload holds it."""
    uuid = str(uuid4())
    payload = encoded_payload(uuid, image) if isinstance(image, bytes) else tensor_payload(uuid, image)
    job = ClaimedJob(uuid, "run", remaining_s=30, queued_s=0, api_id="api", last_code="", payload=payload)
    return job, read_payload(job)


@given(lines)
def test_each_job_is_in_exactly_one_batch_beside_its_own_image(images: list[Image]) -> None:
    line = [claimed(image) for image in images]

    batches = group(line)

    together = {job.uuid: image for batch in batches for job, image in zip(batch.jobs, batch.images, strict=True)}
    assert sum(len(batch.jobs) for batch in batches) == len(line)
    assert together.keys() == {job.uuid for job, _ in line}
    assert all(np.array_equal(together[job.uuid], image) for job, image in line)


@given(lines)
def test_a_batch_keeps_the_order_of_the_line(images: list[Image]) -> None:
    line = [claimed(image) for image in images]
    place = {job.uuid: number for number, (job, _) in enumerate(line)}

    batches = group(line)

    for batch in batches:
        places = [place[job.uuid] for job in batch.jobs]
        assert places == sorted(places)
    heads = [place[batch.jobs[0].uuid] for batch in batches]
    assert heads == sorted(heads)


@given(lines)
def test_a_batch_is_all_that_has_one_shape_and_dtype(images: list[Image]) -> None:
    line = [claimed(image) for image in images]

    batches = group(line)

    arrays = [batch.take(len(batch.jobs)) for batch in batches]
    kinds = [(array.shape[1:], array.dtype) for array in arrays]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == {
        ((), np.dtype(object)) if isinstance(image, bytes) else (image.shape, image.dtype) for image in images
    }


def test_image_files_are_one_batch_apart_from_tensors() -> None:
    files = [b"one", b"", b"a longer one\0"]
    line = [claimed(files[0]), claimed(np.zeros((2, 2))), *map(claimed, files[1:])]

    of_files, of_tensors = group(line)

    assert of_files.take(3).shape == (3,)
    assert of_files.take(3).tolist() == files
    assert of_tensors.take(1).shape == (1, 2, 2)


def test_nothing_makes_no_batch() -> None:
    assert group([]) == []


@given(lines, st.booleans())
def test_each_call_gets_an_array_of_its_own_whatever_the_one_before_wrote_to_it(
    images: list[Image],
    prepared: bool,  # noqa: FBT001  # a parameter
) -> None:
    line = [claimed(image) for image in images]

    for batch in group(line):
        if prepared:
            batch.prepare(len(batch.jobs))
        for part in (batch, batch, batch.halves()[1], batch.part([0])):
            array = part.take(len(part.jobs))
            assert all(np.array_equal(row, image) for row, image in zip(array, part.images, strict=True))
            array[:] = b"" if array.dtype == object else 0

    assert all(np.array_equal(read_payload(job), image) for (job, _), image in zip(line, images, strict=True))


def test_what_was_prepared_is_given_away_once() -> None:
    [batch] = group([claimed(np.ones((2, 2), np.uint8)), claimed(np.zeros((2, 2), np.uint8))])
    batch.prepare(4)

    first, second = batch.take(4), batch.take(4)

    assert first.shape == second.shape == (4, 2, 2)
    assert not np.shares_memory(first, second)


def estimate(*batches_s: float, cap_s: float = 10.0) -> BatchEstimate:
    """Return an estimate that has seen these batches, all at 100 s."""
    seen = BatchEstimate(cap_s=cap_s)
    for batch_s in batches_s:
        seen.add(batch_s, size=1, now_s=100)
    return seen


def test_while_nothing_is_known_a_batch_is_expected_to_take_no_time() -> None:
    assert estimate().value_s(now_s=100) == 0


@given(st.lists(st.floats(0, 9), min_size=1, max_size=3 * REMEMBERED_BATCHES))
def test_the_estimate_is_the_least_of_the_last_batches(batches_s: list[float]) -> None:
    assert estimate(*batches_s).value_s(now_s=100) == min(batches_s[-REMEMBERED_BATCHES:])


def test_a_fast_batch_is_forgotten_after_as_many_others_as_are_remembered() -> None:
    seen = estimate(0.1, *[2.0] * (REMEMBERED_BATCHES - 1))
    before = seen.value_s(now_s=100)

    seen.add(2.0, size=1, now_s=100)

    assert (before, seen.value_s(now_s=100)) == (0.1, 2.0)


def test_the_estimate_is_never_more_than_its_cap() -> None:
    assert estimate(60, 50, cap_s=15).value_s(now_s=100) == 15


@pytest.mark.parametrize(
    ("silent_s", "expected_s"), [(0, 8), (0.99, 8), (1, 4), (2.5, 2), (10, 8 / 1024), (-5, 8), (1e9, 0)]
)
def test_each_second_without_a_batch_halves_the_estimate(silent_s: float, expected_s: float) -> None:
    assert estimate(8, 9).value_s(now_s=100 + silent_s) == expected_s


def test_a_new_batch_ends_the_halving() -> None:
    seen = estimate(8)

    seen.add(9, size=1, now_s=105)

    assert seen.value_s(now_s=105) == 8


def test_batches_of_about_a_size_tell_what_the_next_one_takes_at_least() -> None:
    seen = estimate(1, 2)
    for batch_s in (9, 7, 8, 8, 8):
        seen.add(batch_s, size=31, now_s=100)

    assert [seen.least_s(size) for size in (1, 2, 16, 20, 32)] == [1, 0, 7, 7, 0]


def full(*seen: tuple[int, float], full_size: int = 32, cap_s: float = 100.0) -> float:
    """Return what a full batch is expected to take after batches of these sizes and times."""
    expected = BatchEstimate(cap_s=cap_s, full_size=full_size)
    for size, took_s in seen:
        expected.add(took_s, size=size, now_s=100)
    return expected.full_s


@pytest.mark.parametrize(
    ("seen", "expected_s"),
    [
        pytest.param([], 0.0, id="nothing is known"),
        pytest.param([(32, 0.4), (32, 0.5), (32, 9.0)], 0.5, id="the median of full ones"),
        pytest.param([(1, 0.01)], 0.32, id="one image tells the most that a full one takes"),
        pytest.param([(1, 0.01), (32, 0.02)], 0.02, id="a full one tells more than one image"),
        pytest.param([(32, 0.4), (1, 0.01)], 0.32, id="no more than images by themselves now"),
        pytest.param([(32, 0.4), (8, 2.0)], 2.0, id="no less than a smaller one now"),
        pytest.param([(8, 2.0), (32, 0.4)], 0.4, id="what a smaller one took before is past"),
        pytest.param([(32, 60.0), (1, 0.01)], 0.32, id="one slow batch is not believed for ever"),
        pytest.param([(16, 0.2)], 0.4, id="half a batch tells a whole one"),
        pytest.param([(20, 0.2)], 0.32, id="by its own size"),
    ],
)
def test_a_full_batch_is_estimated_from_what_was_seen(seen: list[tuple[int, float]], expected_s: float) -> None:
    assert full(*seen) == pytest.approx(expected_s)


@given(st.lists(st.tuples(st.integers(1, 32), st.floats(0.001, 9)), min_size=1, max_size=40))
def test_the_estimate_of_a_full_batch_lies_between_what_was_seen_and_its_cap(seen: list[tuple[int, float]]) -> None:
    expected_s = full(*seen, cap_s=20.0)

    assert min(20.0, *(took_s for _, took_s in seen)) <= expected_s <= 20.0


def test_the_estimate_of_a_full_batch_does_not_decay_while_nothing_runs() -> None:
    expected = BatchEstimate(cap_s=10.0, full_size=8)
    expected.add(2.0, size=8, now_s=100)

    assert (expected.value_s(now_s=110) < 0.01, expected.full_s) == (True, 2.0)


def test_blank_batches_give_a_first_estimate_of_a_full_one_and_of_nothing_else() -> None:
    expected = BatchEstimate(cap_s=10.0, full_size=8)
    for size, took_s in ((1, 0.5), (8, 0.9), (8, 0.6)):
        expected.begin(took_s, size=size)

    assert (expected.full_s, expected.usual_s, expected.least_s(8), expected.value_s(now_s=0)) == (0.6, 0, 0, 0)
