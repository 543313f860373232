"""The Open Inference client and the process that it speaks to, for tests."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from inputs import ModelInput
from model_client import ModelClient
from models.choice import Choice
from models.open_inference import OpenInference, Served
from models.remote import RemoteModel
from models.scaling import Scaling
from models.server import ModelServer
from tests.model_server import last_call, running


def serving(port: int = 0) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    """Run a model server; yield its process and port."""
    return running("tests.open_inference_server", port)


@contextlib.asynccontextmanager
async def cold(
    url: str,
    name: str,
    takes: ModelInput | None = None,
    *,
    timeout_s: float = 5.0,
    scaling: Scaling | None = None,
    max_batch_size: int = 2,
    **served: Any,
) -> AsyncIterator[ModelClient]:
    """Open a client of the model server; takes: what the settings say, None: nothing."""
    choice = Choice("open-inference", scaling=scaling or Scaling())
    if takes is not None:
        choice = replace(choice, shape=takes.shape or None, dtype=takes.dtype, accepts=takes.accepts)
    client = RemoteModel(
        ModelServer(url, setting="MICROBATCH_INFERENCE_URL", timeout_s=timeout_s),
        OpenInference(Served(name, **served), choice),
        max_batch_size=max_batch_size,
    )
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def warm(url: str, name: str, takes: ModelInput | None = None, **more: Any) -> AsyncIterator[ModelClient]:
    """Open a client and warm it up."""
    async with cold(url, name, takes, **more) as client:
        await client.warm_up()
        yield client


def plain(predictions: Sequence[object]) -> Any:
    """Return predictions as clients read them."""
    return json.loads(orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY))


def sent(url: str) -> dict[str, Any]:
    """Return the JSON of the last infer call."""
    call: dict[str, Any] = json.loads(last_call(url)["body"])
    return call


def pictures(count: int) -> NDArray[np.uint8]:
    """Return pictures whose sums are 48, 96 and so on."""
    return np.ones((count, 4, 4, 3), np.uint8) * np.arange(1, count + 1, dtype=np.uint8).reshape(-1, 1, 1, 1)


def files(*images: bytes) -> NDArray[Any]:
    batch = np.empty(len(images), object)
    batch[:] = images
    return batch
