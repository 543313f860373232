"""The HTTP process: `uvicorn api:app`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from answers import problem
from config import Settings, load_settings
from docs import PREDICTIONS, PREFER, PROBLEM, REQUEST_BODY, add_docs
from errors import (
    BadRequest,
    InternalError,
    MethodNotAllowed,
    NotFound,
    RedisUnreachable,
    ServiceError,
    StartError,
)
from service import Service
from telemetry import set_up_logging

log = logging.getLogger("api")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; nothing is connected before it starts.

    Raises StartError where the settings are wrong.
    """
    settings = settings or load_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        set_up_logging(settings.log_level)
        app.state.service = service = Service(settings)
        running = asyncio.create_task(service.run())
        yield
        running.cancel()
        service.intake.close()
        await service.queue.close()

    app = FastAPI(
        title="Model micro-batching API",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEM,
    )
    _add_predictions(app)
    _add_health(app)
    add_docs(app)
    _add_handlers(app)
    return app


def _add_predictions(app: FastAPI) -> None:
    @app.post(
        "/predict",
        tags=["predictions"],
        summary="Predict one or several images",
        responses=PREDICTIONS,
        openapi_extra={"requestBody": REQUEST_BODY, "parameters": [PREFER]},
    )
    async def predict(request: Request) -> Response:
        service: Service = request.app.state.service
        started_s = time.monotonic()
        try:
            response = await service.predict(request)
        except ServiceError as exc:
            response = problem(exc, {"Vary": "Prefer"})
        service.metrics.requests.labels(response.status_code).inc()
        service.metrics.request_seconds.observe(time.monotonic() - started_s)
        return response

    @app.get(
        "/results/{request_id}",
        tags=["predictions"],
        summary="Collect the result of a respond-async request",
        responses=PREDICTIONS,
    )
    async def result(request: Request, request_id: str) -> Response:
        service: Service = request.app.state.service
        return await service.result(request_id)

    @app.delete(
        "/results/{request_id}",
        tags=["predictions"],
        status_code=204,
        summary="Cancel a request, or forget its result",
    )
    async def cancel(request: Request, request_id: str) -> Response:
        service: Service = request.app.state.service
        return await service.cancel(request_id)


def _add_health(app: FastAPI) -> None:
    @app.get("/health/live", tags=["operations"], summary="Is the process alive?")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/health/ready", tags=["operations"], summary="Would a request be served?")
    async def ready(request: Request) -> dict[str, object]:
        service: Service = request.app.state.service
        service.readiness.require_model()
        return {"status": "ready", "workers": len(service.readiness.workers)}

    @app.get("/metrics", tags=["operations"], summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        service: Service = request.app.state.service
        service.metrics.workers.set(len(service.readiness.workers))
        try:
            service.metrics.queue_depth.set(await service.queue.depth())
        except RedisUnreachable:
            service.metrics.queue_depth.set(float("nan"))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_handlers(app: FastAPI) -> None:
    """Answer every failure as a problem; what a handler is given is narrowed by the class it is registered for."""

    @app.exception_handler(ServiceError)
    @app.exception_handler(HTTPException)
    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(Exception)
    async def handle(_request: Request, exc: Exception) -> Response:
        return problem(_service_error(exc), exc.headers if isinstance(exc, HTTPException) else None)  # 405: Allow


def _service_error(exc: Exception) -> ServiceError:
    if isinstance(exc, ServiceError):
        return exc
    if isinstance(exc, HTTPException):
        known: dict[int, type[ServiceError]] = {404: NotFound, 405: MethodNotAllowed}
        return known.get(exc.status_code, BadRequest)(str(exc.detail))
    if isinstance(exc, RequestValidationError | ClientDisconnect):
        return BadRequest("the request cannot be read")
    log.error("internal error", exc_info=exc)
    return InternalError("an error of this service; its log says more")


try:
    app = create_app()
except StartError as error:
    print(f"api: {error}", file=sys.stderr)  # noqa: T201  # a start that fails is one line, not a traceback
    sys.exit(1)
