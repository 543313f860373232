"""A claim through a model, wherever that runs: what becomes of each of its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import orjson
from numpy.typing import NDArray

from batch_sizes import BatchSizes
from batching import BatchEstimate
from breaker import CircuitBreaker
from decoding import Decoder, Threads
from inference import Inference
from metrics import Metrics
from model_client import ModelClient
from records import ClaimedJob, Settlement, encoded_payload, read_result, tensor_payload

Image = NDArray[Any] | bytes


class Worker:
    """A batcher's inference without its loop and its queue."""

    def __init__(
        self, model: ModelClient, *, model_timeout_s: float = 10.0, allowed_batch_sizes: tuple[int, ...] = ()
    ) -> None:
        self.breaker = CircuitBreaker()
        self.yields = 0
        self.on_yield: Callable[[list[Settlement]], object] = lambda _: None
        self.estimate = BatchEstimate(cap_s=5)
        self._threads = Threads(1)
        self.inference = Inference(
            model,
            Decoder(self._threads, formats=("png",), max_pixels=100),
            model_timeout_s=model_timeout_s,
            estimate=self.estimate,
            sizes=BatchSizes(allowed_batch_sizes),
            breaker=self.breaker,
            worker_id="w",
            metrics=Metrics(),
        )

    def close(self) -> None:
        self._threads.close()

    async def run(self, images: Sequence[Image], *, reason: str = "idle", code: str = "") -> list[Settlement]:
        """Run one claim; return what becomes of each image. code: of its last try's error."""
        uuids = [str(uuid4()) for _ in images]
        payloads = [
            encoded_payload(uuid, image) if isinstance(image, bytes) else tensor_payload(uuid, image)
            for uuid, image in zip(uuids, images, strict=True)
        ]
        jobs = [
            ClaimedJob(uuid, "run", 60.0, 0.0, "api", code, payload)
            for uuid, payload in zip(uuids, payloads, strict=True)
        ]
        settlements: list[Settlement] = []
        async for some in self.inference.run(jobs, reason):
            settlements += some
            self.yields += 1
            self.on_yield(some)
        found = {one.uuid: one for one in settlements}
        assert len(settlements) == len(found) == len(uuids)
        return [found[uuid] for uuid in uuids]


def said(settlement: Settlement) -> object:
    """Return the prediction, or what became of the job instead: an error's code, or how it goes back."""
    if settlement.kind in ("ok", "error", "dead"):
        kind = "ok" if settlement.kind == "ok" else "error"
        result = read_result(f"{settlement.uuid} {kind} ".encode() + settlement.value)
        return result.error.code if result.error else orjson.loads(result.prediction)
    return settlement.kind
