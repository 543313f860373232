"""Serve with Mosec: one stage of workers that take bodies as they are.

One stage, not two: what would be handed from one to the next costs more than it saves where all takes processors.
max_wait_time is 1 ms, the least that is not taken for its default of 10 ms. It waits that long for a full batch, so
batches of 8 are measured too. The capacity of its queue is left at 1,024, as ours.
"""

from __future__ import annotations

import os

from mosec import Server, Worker

from bench.peers.work import load, options


class Model(Worker):
    """The work on a batch, in a process of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._work = load(options().workload)

    def deserialize(self, data: bytes) -> bytes:
        """Take a body as it is."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Send an answer as it is."""
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        """Answer a batch."""
        return self._work(data)


def main() -> None:
    """Serve until told to stop."""
    wanted = options()
    os.environ |= {"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": str(wanted.port), "MOSEC_LOG_LEVEL": "warning"}
    server = Server()
    server.append_worker(
        Model, num=wanted.workers, max_batch_size=wanted.batch, max_wait_time=1, timeout=30, route="/predict"
    )
    server.run()


if __name__ == "__main__":
    main()
