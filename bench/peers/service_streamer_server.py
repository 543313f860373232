"""Serve with service-streamer over Redis: Flask on gevent's server, and Redis workers.

max_latency=1 ms instead of 100 ms: a worker waits that long for each further request of a batch. TCP_NODELAY, for
gevent's server sends head and body apart: without it each answer, of whatever application, waits 40 ms for an ACK.
redis-py 5, for the pool of version 8 ends at 100 connections, and 256 clients need more.
"""

# What comes after is to find the patched modules.
# isort: off
from gevent import monkey

monkey.patch_all()
# isort: on

import multiprocessing  # noqa: E402
import socket  # noqa: E402

from flask import Flask, Response, request  # noqa: E402
from gevent.pywsgi import WSGIServer  # noqa: E402
from service_streamer import ManagedModel, RedisStreamer, run_redis_workers_forever  # noqa: E402

from bench.peers.work import load, options  # noqa: E402


class Model(ManagedModel):
    """The work on a batch, in a process of its own."""

    def init_model(self) -> None:
        """Load the model."""
        self._work = load(options().workload)

    def predict(self, batch: list[bytes]) -> list[bytes]:
        """Answer a batch."""
        return self._work(batch)


def main() -> None:
    """Serve until told to stop."""
    wanted = options()
    settings = {"max_latency": 0.001, "worker_num": wanted.workers, "redis_broker": wanted.redis}
    processes = multiprocessing.get_context("spawn")
    processes.Process(target=run_redis_workers_forever, args=(Model, wanted.batch), kwargs=settings).start()
    streamer, app = RedisStreamer(redis_broker=wanted.redis), Flask(__name__)

    @app.post("/predict")
    def predict() -> Response:
        return Response(streamer.predict([request.get_data()])[0], mimetype="application/json")

    listener = socket.create_server(("127.0.0.1", wanted.port), backlog=512)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    WSGIServer(listener, app, log=None).serve_forever()


if __name__ == "__main__":
    main()
