"""A claim through real models in this process: who is guilty, who is innocent, who goes back."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from numpy.typing import NDArray

from batch_sizes import BatchSizes
from batching import BatchEstimate
from breaker import CircuitBreaker
from decoding import Decoder, Threads
from errors import ModelUnavailable
from inference import Inference
from inputs import ModelInput
from metrics import Metrics
from models.in_process import InProcess
from models.scaling import Scaling
from records import ClaimedJob, Result, Settlement, Verdict, encoded_payload, read_result, tensor_payload
from tests.pictures import FORMATS, MAX_PIXELS, colours, encoded

Model = Callable[[NDArray[Any]], Sequence[object]]


@dataclass
class Bench:
    """A model, and how often it was called."""

    model: Model
    takes: ModelInput = field(default_factory=lambda: ModelInput((1,)))
    calls: list[int] = field(default_factory=list)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    sizes: BatchSizes = field(default_factory=BatchSizes)

    def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        self.calls.append(len(batch))
        return self.model(batch)

    async def run(self, jobs: Sequence[ClaimedJob]) -> dict[str, Settlement]:
        client = InProcess(self.predict, takes=self.takes, scaling=Scaling())
        threads = Threads(2)
        decoder = Decoder(threads, formats=FORMATS, max_pixels=MAX_PIXELS)
        inference = Inference(
            client,
            decoder,
            model_timeout_s=5,
            estimate=BatchEstimate(cap_s=5),
            sizes=self.sizes,
            breaker=self.breaker,
            worker_id="w",
            metrics=Metrics(),
        )
        settlements = [one async for some in inference.run(jobs, "idle") for one in some]
        await client.close()
        threads.close()
        assert sorted(one.uuid for one in settlements) == sorted(one.uuid for one in jobs)
        return {one.uuid: one for one in settlements}


def jobs(count: int, *, verdict: Verdict = "run", remaining_s: float = 30.0, code: str = "") -> list[ClaimedJob]:
    """Return jobs whose images hold their numbers."""
    uuids = [str(uuid4()) for _ in range(count)]
    payloads = [tensor_payload(uuid, np.array([number], np.uint8)) for number, uuid in enumerate(uuids)]
    return [
        ClaimedJob(uuid, verdict, remaining_s, 0.5, "api", code, payload)
        for uuid, payload in zip(uuids, payloads, strict=True)
    ]


def result(settlement: Settlement) -> Result:
    """Read a settlement as the api does."""
    kind = "ok" if settlement.kind == "ok" else "error"
    return read_result(f"{settlement.uuid} {kind} ".encode() + settlement.value)


def raises_on(*poisons: int) -> Model:
    def model(batch: NDArray[Any]) -> list[int]:
        if set(batch.ravel().tolist()) & set(poisons):
            raise ValueError("poison")
        return [int(row) for row in batch[:, 0]]

    return model


@pytest.mark.parametrize(
    "poisons", [(5,), (0, 31), (3, 4), (0, 8, 16, 24), (0, 1, 2, 3), (28, 29, 30, 31), (7, 15, 16, 31)]
)
async def test_a_failed_batch_is_split_down_to_the_guilty(poisons: tuple[int, ...]) -> None:
    given = jobs(32)
    bench = Bench(raises_on(*poisons))

    settled = await bench.run(given)

    assert [number for number, job in enumerate(given) if settled[job.uuid].kind == "error"] == list(poisons)
    assert len(bench.calls) - 1 <= 2 * len(poisons) * math.log2(32)


async def test_a_model_that_fails_on_everything_is_not_tried_on_each() -> None:
    given = jobs(32)
    bench = Bench(raises_on(*range(32)))

    settled = await bench.run(given)

    codes = {error.code for one in settled.values() if (error := result(one).error)}
    assert codes == {"model_failed"}
    assert len(bench.calls) < 16


@pytest.mark.parametrize(
    "model",
    [
        lambda batch: [0] * (len(batch) + (len(batch) > 1)),
        lambda batch: [1 // (len(batch) <= 4)] * len(batch),
    ],
    ids=["wrong count", "too large a batch"],
)
async def test_a_batch_that_fails_only_as_a_whole_hurts_nobody(model: Model) -> None:
    settled = await Bench(model).run(jobs(16))

    assert {one.kind for one in settled.values()} == {"ok"}


@pytest.mark.parametrize("model", [lambda _: {"a": 1}, lambda _: "x", lambda _: 7, lambda _: [object()]])
async def test_what_is_no_list_of_predictions_is_an_error(model: Model) -> None:
    (settlement,) = (await Bench(model).run(jobs(1))).values()

    error = result(settlement).error
    assert error is not None
    assert error.code == "model_failed"


async def test_an_array_in_any_order_is_a_list_of_predictions() -> None:
    def model(batch: NDArray[Any]) -> NDArray[np.float32]:
        return np.asfortranarray(np.repeat(batch.astype(np.float32), 3, axis=1))

    given = jobs(2)
    settled = await Bench(model).run(given)  # type: ignore[arg-type]  # an array will do

    assert [result(settled[job.uuid]).prediction for job in given] == [b"[0.0,0.0,0.0]", b"[1.0,1.0,1.0]"]


@pytest.mark.parametrize("raised", [TimeoutError(), SystemExit(3), KeyboardInterrupt(), StopIteration(), MemoryError()])
async def test_whatever_a_model_raises_fails_its_image_and_not_the_batcher(raised: BaseException) -> None:
    def model(batch: NDArray[Any]) -> list[int]:
        if 1 in batch:
            raise raised
        return [0] * len(batch)

    given = jobs(3)
    settled = await Bench(model).run(given)

    assert [settled[job.uuid].kind for job in given] == ["ok", "error", "ok"]


async def test_an_exception_in_an_images_place_fails_that_image_alone_and_the_log_says_which(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = jobs(3)

    settled = await Bench(lambda _: [0, ValueError("bad"), 2]).run(given)

    assert [settled[job.uuid].kind for job in given] == ["ok", "error", "ok"]
    assert [vars(record).get("job") for record in caplog.records] == [given[1].uuid]


async def test_jobs_are_given_back_while_the_model_is_unavailable() -> None:
    def model(_batch: NDArray[Any]) -> list[int]:
        raise ModelUnavailable("down")

    bench = Bench(model)
    settled = await bench.run(jobs(8))

    assert {(one.kind, one.value) for one in settled.values()} == {("release", b"model_unavailable")}
    assert bench.calls == [8]
    assert bench.breaker.pause_s(now_s=asyncio.get_running_loop().time()) > 0


async def test_a_job_whose_time_is_over_says_what_its_last_try_said() -> None:
    late, tried = jobs(1, verdict="expired"), jobs(1, verdict="expired", code="model_unavailable")
    bench = Bench(lambda batch: [0] * len(batch))

    settled = await bench.run([*late, *tried, *jobs(1, remaining_s=0.0)])

    codes = [error.code for one in settled.values() if (error := result(one).error)]
    assert sorted(codes) == ["deadline_exceeded", "deadline_exceeded", "model_unavailable"]
    assert bench.calls == []


async def test_a_payload_that_cannot_be_read_fails_alone() -> None:
    good, torn, foreign = jobs(3)
    header = f"{torn.uuid} tensor <q9 1\n".encode()
    given = [
        good,
        ClaimedJob(torn.uuid, "run", 9, 0, "api", "", header),
        ClaimedJob(foreign.uuid, "run", 9, 0, "api", "", good.payload),
    ]

    settled = await Bench(lambda batch: [0] * len(batch)).run(given)

    assert [settled[job.uuid].kind for job in given] == ["ok", "error", "error"]


async def test_files_become_tensors_and_a_broken_one_fails_alone() -> None:
    files = [encoded(colours(), "png"), encoded(colours(), "jpeg")[:300], encoded(colours().rotate(180), "png")]
    uuids = [str(uuid4()) for _ in range(4)]
    payloads = [encoded_payload(uuid, file) for uuid, file in zip(uuids, files, strict=False)]
    payloads.append(tensor_payload(uuids[3], np.asarray(colours())))
    given = [ClaimedJob(uuid, "run", 9, 0.5, "api", "", payload) for uuid, payload in zip(uuids, payloads, strict=True)]
    bench = Bench(lambda batch: [int(image[0, 0, 0]) for image in batch], takes=ModelInput((24, 40, 3)))

    settled = await bench.run(given)

    found = [result(settled[uuid]) for uuid in uuids]
    assert [one.error.code if one.error else one.prediction for one in found] == [
        b"200",
        "invalid_image",
        b"0",
        b"200",
    ]
    assert bench.calls == [3]
    assert all(0 < one.timing.decode_s < 0.5 <= one.timing.queue_s < 1 for one in found)


async def test_a_model_that_takes_files_gets_them_as_they_are() -> None:
    file = encoded(colours(), "png")
    uuid = str(uuid4())
    bench = Bench(lambda batch: [len(image) for image in batch], takes=ModelInput((), accepts="encoded"))

    settled = await bench.run([ClaimedJob(uuid, "run", 9, 0.5, "api", "", encoded_payload(uuid, file))])

    assert result(settled[uuid]).prediction == str(len(file)).encode()
    assert result(settled[uuid]).timing.decode_s == 0


async def test_poison_is_settled_as_dead_without_a_call() -> None:
    bench = Bench(lambda batch: [0] * len(batch))

    (settlement,) = (await bench.run(jobs(1, verdict="poison"))).values()

    assert settlement.kind == "dead"
    assert bench.calls == []
