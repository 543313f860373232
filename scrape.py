"""A batcher's own small web server: what it has counted, and whether it lives."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from errors import StartError
from exposition import CONTENT_TYPE, of_process
from metrics import Metrics


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the batcher."""
        yield


class Scrape:
    """Listens while it is entered; it answers from the batcher's own event loop, so an answer says that this runs."""

    def __init__(self, address: tuple[str, int], metrics: Metrics, *, worker_id: str) -> None:
        self._address = address
        self._metrics = metrics
        self._worker_id = worker_id
        routes = [Route("/metrics", self._show), Route("/health/live", _live)]
        config = uvicorn.Config(
            Starlette(routes=routes), lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        self._server = _Server(config)

    async def __aenter__(self) -> Self:
        """Begin to listen.

        Raises StartError where the port cannot be had.
        """
        host, port = self._address
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            listener = socket.create_server(self._address, family=family)
        except OSError as exc:
            raise StartError(
                f"cannot listen on {host}:{port} ({exc.strerror}): each batcher of a host needs a "
                "MICROBATCH_BATCHER_METRICS_PORT of its own"
            ) from exc
        self._serving = asyncio.create_task(self._server.serve([listener]))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        self._server.should_exit = True
        await self._serving

    async def _show(self, _request: Request) -> Response:
        if not self._metrics.on:
            return Response("nothing is counted here: MICROBATCH_METRICS is off\n", 404, media_type="text/plain")
        return Response(of_process(self._metrics.add_up(), {"worker": self._worker_id}), media_type=CONTENT_TYPE)


async def _live(_request: Request) -> Response:
    return JSONResponse({"status": "alive"})
