"""Serve with Ray Serve: its throughput-optimized mode behind HAProxy, as its documentation has it for high throughput.

Without HAProxy it answered 16 clients less than a tenth as often. batch_wait_timeout_s=0 takes what is there.
max_ongoing_requests above the most clients, or they would wait outside of the batches. No dashboard, no usage
statistics. It takes requests on 127.0.0.1 alone; parts of its own listen on all addresses.
"""

import signal
from collections.abc import Sequence

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from bench.peers.work import load, options

WANTED = options()
STORE_BYTES = 200 * 2**20


@serve.deployment(num_replicas=WANTED.workers, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 0})
class Model:
    """The work on a batch, in a process of its own."""

    def __init__(self) -> None:
        self._work = load(WANTED.workload)

    @serve.batch(max_batch_size=WANTED.batch, batch_wait_timeout_s=0.0)
    async def answer(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Answer a batch."""
        return self._work(bodies)

    async def __call__(self, request: Request) -> Response:
        """Answer a request with its part of a batch."""
        return Response(await self.answer(await request.body()), media_type="application/json")


def main() -> None:
    """Serve until told to stop."""
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", object_store_memory=STORE_BYTES)
    serve.start(http_options={"host": "127.0.0.1", "port": WANTED.port})
    serve.run(Model.bind(), route_prefix="/predict")  # type: ignore[attr-defined]  # the decorator adds it
    signal.pause()


if __name__ == "__main__":
    main()
