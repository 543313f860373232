"""The HTTP process: `uvicorn api:app`."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from answers import accepted, add_timing, predictions, problem
from bodies import read_body, split_body
from config import Settings, load_settings
from errors import (
    BadRequest,
    DeadlineExceeded,
    InternalError,
    MethodNotAllowed,
    NotFound,
    RedisUnreachable,
    ServiceError,
    StartError,
)
from intake import Intake, job_uuids
from jobs import JobQueue
from prefer import Preferences, preferences
from readiness import Readiness, override_input
from records import Job, Progress, Result
from results import Results
from telemetry import Metrics, set_up_logging

SWAGGER_UI = Path(__file__).parent / "page" / "vendor" / "swagger-ui"
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
REQUEST_ID = re.compile(rf"({UUID})(?:\.([1-9]\d{{0,3}}))?")
SAMPLE_DIGIT = (  # a PNG of 8x8 pixels, so that the example in /docs can be executed as it is
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAANUlEQVR42iXJQQ3AQAgAsAYFSE"
    "DCHE/CLJ2DwwF78GtS1LzAM5ME5TTB0Vs5FwG5SF17dz5+/OANkOLFA2UAAAAASUVORK5CYII="
)
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {"instances": {"type": "array", "items": {"properties": {"b64": {"type": "string"}}}}},
            },
            "example": {"instances": [{"b64": SAMPLE_DIGIT}]},
        },
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}
        },
    },
}

log = logging.getLogger("api")


class Service:
    """Everything one api process holds while it runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.queue = JobQueue(settings.redis_url, name=settings.queue_name, timeout_s=settings.redis_timeout_s)
        self.readiness = Readiness(
            self.queue,
            worker_timeout_s=settings.worker_timeout_s,
            override=override_input(
                shape=settings.input_shape, dtype=settings.input_dtype, accepts=settings.accepts, fit=settings.fit
            ),
        )
        self.results = Results(
            self.queue,
            self.readiness,
            api_id=uuid4().hex[:12],
            max_queue_depth=settings.max_queue_depth,
            max_results=settings.max_results,
            max_batch_size=settings.max_batch_size,
        )
        self.intake = Intake(
            formats=settings.image_formats, max_pixels=settings.max_pixels, threads=settings.decode_threads
        )

    async def run(self) -> None:
        """Watch Redis and listen for results, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.readiness.run())
            tasks.create_task(self.results.run())

    async def predict(self, request: Request) -> Response:
        """Take one prediction request from its body to its answer.

        Raises ServiceError.
        """
        started_s = time.monotonic()
        settings = self.settings
        takes = self.readiness.require()
        prefer = preferences(request.headers.getlist("prefer"))
        body = await read_body(request, max_body_bytes=settings.max_body_bytes, body_timeout_s=settings.body_timeout_s)
        uploads = await split_body(
            request.headers.get("content-type", ""), body, max_images=settings.max_images_per_request
        )
        read_s = time.monotonic()
        request_uuid = str(uuid4())
        request_id = request_uuid if len(uploads) == 1 else f"{request_uuid}.{len(uploads)}"
        if settings.simulated_decode_s:
            await asyncio.sleep(settings.simulated_decode_s)
        prepared = await self.intake.prepare(uploads, job_uuids(request_uuid, len(uploads)), takes)
        decode_s = time.monotonic() - read_s
        self.metrics.decode_seconds.observe(decode_s)
        jobs = [one for one in prepared if isinstance(one, Job)]
        results = await self._results(jobs, prefer, read_s) if jobs else []
        if results is None:
            response = accepted(request_id)
        else:
            by_uuid = {result.uuid: result for result in results}
            outcomes = [by_uuid[one.uuid] if isinstance(one, Job) else one for one in prepared]
            response = predictions(request_id, outcomes)
            add_timing(response, outcomes, decode_s=decode_s, total_s=time.monotonic() - started_s)
        response.headers["Vary"] = "Prefer"
        if prefer.applied:
            response.headers["Preference-Applied"] = prefer.applied
        return response

    async def _results(self, jobs: list[Job], prefer: Preferences, read_s: float) -> list[Result] | None:
        settings = self.settings
        spent_s = time.monotonic() - read_s
        asked_s = settings.request_timeout_s if prefer.wait_s is None else prefer.wait_s
        wait_s = max(0.0, min(asked_s, settings.request_timeout_s) - spent_s)
        if prefer.respond_async:
            wait_s = 0.0 if prefer.wait_s is None else wait_s
            return await self.results.ask_and_keep(jobs, timeout_s=settings.async_timeout_s, wait_s=wait_s)
        return await self.results.ask(jobs, timeout_s=wait_s)

    async def result(self, request_id: str) -> Response:
        """Answer with what became of a request.

        Raises NotFound, DeadlineExceeded, RedisUnreachable.
        """
        answers = await self.results.poll(_uuids(request_id))
        if any(answer is Progress.UNKNOWN for answer in answers):
            raise NotFound("this result is unknown, expired or already answered")
        if any(answer is Progress.WORKING for answer in answers):
            return accepted(request_id)
        late = DeadlineExceeded("no result in time")
        outcomes = [answer if isinstance(answer, Result) else late for answer in answers]
        response = predictions(request_id, outcomes)
        add_timing(response, outcomes, decode_s=0.0, total_s=0.0)
        return response


def _uuids(request_id: str) -> list[str]:
    match = REQUEST_ID.fullmatch(request_id)
    if match is None or int(match[2] or 1) > 1024:
        raise NotFound("there is no such result")
    return job_uuids(match[1], int(match[2] or 1))


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

    app = FastAPI(title="Model micro-batching API", version="0.1.0", lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_predictions(app)
    _add_health(app)
    _add_docs(app)
    _add_handlers(app)
    return app


def _add_predictions(app: FastAPI) -> None:
    @app.post("/predict", summary="Predict one or several images", openapi_extra={"requestBody": BODY})
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

    @app.get("/results/{request_id}", summary="Collect the result of a respond-async request")
    async def result(request: Request, request_id: str) -> Response:
        service: Service = request.app.state.service
        return await service.result(request_id)

    @app.delete("/results/{request_id}", status_code=204, summary="Cancel a request, or forget its result")
    async def cancel(request: Request, request_id: str) -> Response:
        service: Service = request.app.state.service
        await service.queue.drop(_uuids(request_id))
        return Response(status_code=204)


def _add_health(app: FastAPI) -> None:
    @app.get("/health/live", summary="Is the process alive?")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/health/ready", summary="Would a request be served?")
    async def ready(request: Request) -> dict[str, object]:
        service: Service = request.app.state.service
        service.readiness.require()
        return {"status": "ready", "workers": len(service.readiness.workers)}

    @app.get("/metrics", summary="Metrics for Prometheus")
    async def metrics(request: Request) -> Response:
        service: Service = request.app.state.service
        service.metrics.workers.set(len(service.readiness.workers))
        try:
            service.metrics.queue_depth.set(await service.queue.depth())
        except RedisUnreachable:
            service.metrics.queue_depth.set(float("nan"))
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_docs(app: FastAPI) -> None:
    """Serve Swagger UI from the copy in the repository: FastAPI's own page loads it from another host."""
    app.mount("/docs/assets", StaticFiles(directory=SWAGGER_UI), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="data:,",
        )

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")


def _add_handlers(app: FastAPI) -> None:
    """Answer every failure as a problem; what a handler is given is narrowed by the class it is registered for."""

    @app.exception_handler(ServiceError)
    @app.exception_handler(HTTPException)
    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(Exception)
    async def handle(_request: Request, exc: Exception) -> Response:
        return problem(_service_error(exc))


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
