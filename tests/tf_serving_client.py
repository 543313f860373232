"""The TF-Serving client and the process that it speaks to, for tests."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inputs import ModelInput
from model_client import ModelClient
from models.choice import Choice
from models.remote import RemoteModel
from models.scaling import Scaling
from models.server import ModelServer
from models.tf_serving import Served, TFServing
from tests.model_server import running

PICTURE = ModelInput(shape=(4, 4, 3))
LABELLED = ModelInput(shape=(4, 4))
PAIR = ModelInput(shape=(2,), dtype="float32")
ENCODED = ModelInput(shape=(), accepts="encoded")


def serving(port: int = 0) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    """Run a model server; yield its process and port."""
    return running("tests.tf_serving_server", port)


@contextlib.asynccontextmanager
async def opened(
    url: str,
    name: str,
    takes: ModelInput | None = PICTURE,
    *,
    timeout_s: float = 5.0,
    scaling: Scaling | None = None,
    max_batch_size: int = 1,
    **served: Any,
) -> AsyncIterator[ModelClient]:
    """Open a client of the model server; takes: what the settings say, None: nothing."""
    choice = Choice("tf-serving", scaling=scaling or Scaling())
    if takes is not None:
        choice = replace(choice, shape=takes.shape, dtype=takes.dtype, accepts=takes.accepts)
    client = RemoteModel(
        ModelServer(url, setting="MICROBATCH_TF_SERVING_URL", timeout_s=timeout_s),
        TFServing(Served(name, **served), choice),
        max_batch_size=max_batch_size,
    )
    try:
        yield client
    finally:
        await client.close()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def pictures(count: int, dtype: str = "uint8") -> NDArray[Any]:
    """Return pictures whose sums are 0, 48, 96 and so on."""
    return np.ones((count, *PICTURE.shape), dtype) * np.arange(count, dtype=dtype).reshape(-1, 1, 1, 1)


def packed(*images: bytes) -> NDArray[Any]:
    batch = np.empty(len(images), object)
    batch[:] = images
    return batch
