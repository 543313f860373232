"""Serve with BentoML: one service of so many workers, with its adaptive batches.

Access log, metrics and tracking are off. max_latency_ms is far off, for what is late by its estimate is refused.
The body comes raw, instead of as JSON or a temporary file: it is validated into a batch of one.
"""

import os
import sys
from typing import Annotated

import bentoml
from pydantic import BeforeValidator, WithJsonSchema

from bench.peers.work import load, options

WANTED = options()
Bodies = Annotated[
    list[bytes], BeforeValidator(lambda body: [body]), WithJsonSchema({"type": "file", "format": "binary"})
]


@bentoml.service(
    name="model",
    workers=WANTED.workers,
    traffic={"timeout": 30, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Model:
    """The work on a batch."""

    def __init__(self) -> None:
        self._work = load(WANTED.workload)

    @bentoml.api(route="/predict", batchable=True, max_batch_size=WANTED.batch, max_latency_ms=10_000)
    def predict(self, bodies: Bodies, /) -> list[str]:
        """Answer a batch."""
        return [answer.decode() for answer in self._work(bodies)]


def main() -> None:
    """Become the server that BentoML's command starts."""
    name = f"{__spec__.name}:Model"
    command = ["-m", "bentoml", "serve", name, "--host", "127.0.0.1", "--port", str(WANTED.port)]
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606  # our own


if __name__ == "__main__":
    main()
