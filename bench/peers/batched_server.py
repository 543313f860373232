"""Serve with batched: batches in the process of FastAPI, under uvicorn with uvloop and httptools.

timeout_ms=0: beside 1 ms it answered one client four times as often, and 64 clients as often. It then polls without
pause, as its processor time shows. As many uvicorn workers as processes are to run the model, each with batches of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence

import uvicorn
from batched.aio import dynamically
from fastapi import FastAPI, Request, Response

from bench.peers.work import load, options


def create() -> FastAPI:
    """Return the application, with its model loaded."""
    wanted = options()
    work, app = load(wanted.workload), FastAPI()

    @dynamically(batch_size=wanted.batch, timeout_ms=0.0)
    def answer(bodies: Sequence[bytes]) -> list[bytes]:
        return work(bodies)

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        return Response(await answer(await request.body()), media_type="application/json")

    return app


def main() -> None:
    """Serve until told to stop."""
    wanted = options()
    uvicorn.run(
        f"{__spec__.name}:create",
        factory=True,
        host="127.0.0.1",
        port=wanted.port,
        workers=wanted.workers,
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
