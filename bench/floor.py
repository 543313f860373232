"""The least that a FastAPI service costs: a route that reads the body and answers a constant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response

from memory import calm_collector

ANSWER = b'{"id":"00000000-0000-0000-0000-000000000000","predictions":[{"sum":0}]}'


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    calm_collector()
    yield


app = FastAPI(lifespan=_lifespan)


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Read and answer."""
    await request.body()
    return Response(ANSWER, media_type="application/json")
