"""Files are decoded on threads, each to its own tensor or its own error, near or far from where they came in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import images
from bench.workloads import photo
from decoding import Decoder, Threads
from errors import InvalidImage, UnsupportedMediaType
from ids import job_uuids, new_uuid
from inputs import ModelInput
from intake import Intake
from records import ClaimedJob, Job, read_payload
from tests.pictures import FORMATS, colours, encoded

MAX_PIXELS = 25_000_000
LARGE = ModelInput((224, 224, 3))  # 150,528 bytes
SMALL = ModelInput((16, 16, 3))
TINY = ModelInput((4, 4, 3))
FILE = encoded(colours(), "png")


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    threads = Threads(2)
    decoder = Decoder(threads, formats=FORMATS, max_pixels=MAX_PIXELS)
    yield decoder
    threads.close()


async def prepared(decoder: Decoder, uploads: list[bytes], takes: ModelInput, *, near: bool) -> list[Any]:
    """Return what travels of each upload: its tensor, its file, or its error."""
    uuids = job_uuids(new_uuid(), len(uploads))
    found = await Intake(decoder, near=near).prepare(uploads, uuids, takes)
    return [image_of(one) if isinstance(one, Job) else one for one in found]


def image_of(job: Job) -> NDArray[Any] | bytes:
    return read_payload(ClaimedJob(job.uuid, "run", 1.0, 0.0, "api", "", job.payload))


async def test_each_file_gets_its_own_tensor_or_its_own_error_in_order(decoder: Decoder) -> None:
    files = [photo(0, 60, 40), FILE[:100], photo(1, 60, 40), b"hello", *(photo(number, 60, 40) for number in range(40))]

    found = await decoder.decode(files, SMALL)

    assert isinstance(found[1], InvalidImage)
    assert isinstance(found[3], UnsupportedMediaType)
    for file, one in zip(files[:1] + files[2:3] + files[4:], found[:1] + found[2:3] + found[4:], strict=True):
        own = images.decode(file, takes=SMALL, formats=FORMATS, max_pixels=MAX_PIXELS)

        assert np.array_equal(one, own)  # type: ignore[arg-type]  # an error is equal to none


async def test_what_has_not_begun_when_cancelled_is_not_begun(decoder: Decoder) -> None:
    large = photo(0, 3000, 2000)
    decoding = asyncio.create_task(decoder.decode([large] * 200, LARGE))
    await asyncio.sleep(0)  # the first are with the threads
    decoding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await decoding
    began_s = time.monotonic()
    await decoder.decode([FILE], SMALL)

    assert time.monotonic() - began_s < 1  # all of them would have taken several seconds


async def test_a_file_smaller_than_its_tensor_goes_as_it_is(decoder: Decoder) -> None:
    assert TINY.size_bytes < len(FILE) < LARGE.size_bytes
    assert await prepared(decoder, [FILE], LARGE, near=False) == [FILE]
    for takes, near in ((LARGE, True), (TINY, False)):
        (tensor,) = await prepared(decoder, [FILE], takes, near=near)

        assert np.array_equal(tensor, images.decode(FILE, takes=takes, formats=FORMATS, max_pixels=MAX_PIXELS))


async def test_what_is_no_image_is_refused_at_once_also_where_another_decodes(decoder: Decoder) -> None:
    found = await prepared(decoder, [b"hello", FILE, b""], LARGE, near=False)

    assert [type(one) for one in found] == [UnsupportedMediaType, bytes, InvalidImage]


async def test_a_model_of_other_tensors_takes_no_files_however_small(decoder: Decoder) -> None:
    (found,) = await prepared(decoder, [FILE], ModelInput((100_000,)), near=False)

    assert isinstance(found, UnsupportedMediaType)


async def test_a_model_that_takes_files_gets_them_looked_through(decoder: Decoder) -> None:
    takes = ModelInput((), accepts="encoded")

    found = await prepared(decoder, [FILE, FILE[:100]], takes, near=False)

    assert [type(one) for one in found] == [bytes, InvalidImage]
