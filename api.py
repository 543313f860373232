"""The HTTP process: `uvicorn api:app`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from access import REQUEST_ID, begin, tell
from answers import problem
from asgi import Answer, Incoming, forget_body
from config import Settings
from docs import IDEMPOTENCY_KEY, PREDICTIONS, PREFER, PROBLEM, REQUEST_BODY, X_REQUEST_ID, add_docs
from draining import Draining
from errors import ServiceError, StartError
from exposition import CONTENT_TYPE, of_queues
from fronts import own
from fronts.choice import front_of, path_of
from fronts.failures import answered, service_error
from logs import set_up_logging
from memory import calm_collector, give_back_large_blocks
from model_set import load_models
from news import News
from service import Service
from services import PREDICT, Services
from tracing import load_tracing
from web import add_page

UVICORN_KEEP_ALIVE_S = 5
KEEP_ALIVE_S = 75
"""How long an idle connection is kept: longer than load balancers do (60 s is usual), so that they close first."""

INCOMING = "microbatch.incoming"
"""Where the scope of a request to a route holds what is known of it."""

log = logging.getLogger("api")


class Api(FastAPI):
    """FastAPI, but for predictions (`POST /predict`): they need no middleware, no routing and no parsed parameters.

    They have their routes all the same, for /docs, and for a server that puts a root path before them. The paths of
    other servers go to their fronts, which word all errors their own way.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif scope["method"] == "POST" and (service := self.state.services.at.get(scope["path"])):
            answer = await _predict(service, Incoming(scope, receive))
            await answer(scope, receive, send)
        elif front := front_of(path := path_of(scope)):
            answer = await front.answer(self.state.services, Incoming(scope, receive), scope["method"], path)
            await answer(scope, receive, send)
        else:
            scope[INCOMING] = incoming = Incoming(scope, receive)
            await super().__call__(scope, receive, _with_id(incoming, send))
            forget_body(getattr(send, "__self__", None))


def create_app(models: Mapping[str, Settings]) -> FastAPI:
    """Make the application for these models, by name; nothing is connected before it starts.

    Raises StartError where the settings are wrong, or something that they ask for is not installed.
    """
    of_the_process = next(iter(models.values()))
    open_tracing = load_tracing(of_the_process.traces)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        give_back_large_blocks()
        app.state.services = services = Services(models, open_tracing)
        server = _running_server()
        draining = _set_up_server(server, of_the_process, services) if server else None
        app.state.news = {one: _news(one, draining) for one in services}
        await services.look()
        calm_collector()
        running = asyncio.create_task(services.run())
        running.add_done_callback(partial(_end_without_it, server))
        yield
        running.cancel()
        await services.close()

    app = Api(
        title="Model micro-batching API",
        version="0.1.0",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEM,
    )
    _add_predictions(app)
    _add_results(app)
    _add_health(app)
    add_docs(app)
    add_page(app)
    _add_handlers(app)
    return app


def _news(service: Service, draining: Draining | None) -> News:
    return News(
        service.look,
        problem=service.readiness.trouble,
        stopping=lambda: draining is not None and draining.closing,
        worker_timeout_s=service.settings.worker_timeout_s,
    )


def _running_server() -> uvicorn.Server | None:
    """Return the server: however uvicorn was started, SIGTERM is handled by a method of it, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if isinstance(server, uvicorn.Server) else None


def _set_up_server(server: uvicorn.Server, settings: Settings, services: Services) -> Draining:
    """Have uvicorn wait so long for answers when it stops, and keep idle connections; unless it was told otherwise.

    By itself it waits for ever, and closes at the moment at which a load balancer may send. Return how it stops.
    """
    if server.config.timeout_graceful_shutdown is None:
        server.config.timeout_graceful_shutdown = settings.shutdown_grace_s  # type: ignore[assignment]  # floats do too
    if server.config.timeout_keep_alive == UVICORN_KEEP_ALIVE_S:
        server.config.timeout_keep_alive = KEEP_ALIVE_S
    draining = Draining(server, delay_s=settings.drain_delay_s, on_begin=services.stop_being_ready)
    draining.install()
    return draining


def _end_without_it(server: uvicorn.Server | None, running: asyncio.Task[None]) -> None:
    """Stop the process whose listening ended by a bug: it would refuse everybody for ever, and look alive.

    Without a delay, and not with exit code 0: uvicorn raises this signal again when it has ended.
    """
    if not running.cancelled():
        log.critical("listening for results ended; leaving", exc_info=running.exception())
        if server:
            server.handle_exit(signal.SIGTERM, None)
        else:
            signal.raise_signal(signal.SIGTERM)


def _add_predictions(app: FastAPI) -> None:
    asked = {"requestBody": REQUEST_BODY, "parameters": [PREFER, IDEMPOTENCY_KEY, X_REQUEST_ID]}

    @app.post(
        PREDICT,
        tags=["predictions"],
        summary="Predict one or several images",
        responses=PREDICTIONS,
        openapi_extra=asked,
    )
    async def predict(request: Request) -> Response:
        return await _predict(_services(request).default, Incoming(request.scope, request.receive))

    @app.post(
        PREDICT + "/{model}",
        tags=["predictions"],
        summary="Predict by one of several models",
        responses=PREDICTIONS,
        openapi_extra=asked,
    )
    async def predict_by(request: Request, model: str) -> Response:
        return await _predict(_services(request).named(model), Incoming(request.scope, request.receive))


async def _predict(service: Service, incoming: Incoming) -> Answer:
    if service.tracing is not None:
        begin(service.tracing, incoming, PREDICT)
    incoming.count_in(service.metrics)
    answer = await answered(incoming, own.predict(service, incoming), problem)
    answer.add(b"vary", "Prefer")
    return answer


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _with_id(incoming: Incoming, send: Send) -> Send:
    """Return a `send` that gives the answers of routes their request's id, where they have none yet."""

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start" and REQUEST_ID not in dict(message["headers"]):
            message["headers"].append((REQUEST_ID, incoming.id.encode()))
        await send(message)

    return send_with_id


def _add_results(app: FastAPI) -> None:
    @app.get(
        "/results/{request_id}",
        tags=["predictions"],
        summary="Collect the result of a respond-async request",
        responses=PREDICTIONS,
    )
    async def result(request: Request, request_id: str) -> Response:
        return await own.result(_services(request), request_id)

    @app.delete(
        "/results/{request_id}",
        tags=["predictions"],
        status_code=204,
        summary="Cancel a request, or forget its result",
    )
    async def cancel(request: Request, request_id: str) -> Response:
        await own.cancel(_services(request), request_id)
        return Response(status_code=204)


def _add_health(app: FastAPI) -> None:
    @app.head("/health/live", include_in_schema=False)
    @app.get("/health/live", tags=["operations"], summary="Is the process alive?")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.head("/health/ready", include_in_schema=False)
    @app.get("/health/ready", tags=["operations"], summary="Would a request be served?")
    async def ready(request: Request) -> dict[str, object]:
        services = _services(request)
        await services.refresh()
        services.require_models()
        workers = {name: len(one.readiness.workers) for name, one in services.by_name.items()}
        body: dict[str, object] = {"status": "ready", "workers": sum(workers.values())}
        return body | ({"models": {name: {"workers": workers[name]} for name in workers}} if len(workers) > 1 else {})

    @app.head("/health/ready/{model}", include_in_schema=False)
    @app.get("/health/ready/{model}", tags=["operations"], summary="Would a request to this model be served?")
    async def ready_by(request: Request, model: str) -> dict[str, object]:
        readiness = _services(request).named(model).readiness
        await readiness.refresh()
        readiness.require_model()
        return {"status": "ready", "workers": len(readiness.workers)}

    @app.get("/metrics", tags=["operations"], summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        services = _services(request)
        looks = await asyncio.gather(*(one.look() for one in services))
        by_queue = {one.settings.queue_name: look for one, look in zip(services, looks, strict=True)}
        timeouts_s = {one.settings.queue_name: one.settings.worker_timeout_s for one in services}
        return Response(of_queues(by_queue, worker_timeouts_s=timeouts_s), media_type=CONTENT_TYPE)


def _add_handlers(app: FastAPI) -> None:
    """Answer every failure as a problem; what a handler is given is narrowed by the class it is registered for."""

    @app.exception_handler(ServiceError)
    @app.exception_handler(HTTPException)
    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ClientDisconnect)
    @app.exception_handler(Exception)
    async def handle(request: Request, exc: Exception) -> Response:
        headers = exc.headers if isinstance(exc, HTTPException) else None  # 405: Allow
        answer = problem(service_error(exc), headers)
        tell(request.scope[INCOMING], answer)
        return answer


try:
    _models = load_models()
    _common = next(iter(_models.values()))
    set_up_logging(_common.log_level, _common.log_format)  # here, or uvicorn's first lines would go another way
    app = create_app(_models)
except StartError as error:
    print(f"api: {error}", file=sys.stderr)  # noqa: T201  # a start that fails is one line, not a traceback
    sys.exit(1)
