"""The page at `/`: its files, under a policy by which it speaks to this service alone, and the news that it shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles

from config import Settings
from news import News, server_sent
from service import Service
from services import Services

PAGE = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # kept, but asked for by its ETag each time: a new version shows at once
}
NEVER_KEPT = {"cache-control": "no-store", "x-accel-buffering": "no"}  # nginx would hold events back


class _Files(StaticFiles):
    """Static files with the headers above; FastAPI's own say nothing of what a page may do."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a file, or that it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page, what it is made of, and `GET /events`; nothing of it comes from another host."""
    files = _Files(directory=PAGE)
    app.mount("/page", files, name="page")

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @app.get("/events", tags=["operations"], summary="What the queue does, live (server-sent events)")
    async def events(request: Request) -> Response:
        services: Services = request.app.state.services
        return _events(request.app.state.news, services, services.default)

    @app.get("/events/{model}", tags=["operations"], summary="What the queue of one of several models does, live")
    async def events_of(request: Request, model: str) -> Response:
        services: Services = request.app.state.services
        return _events(request.app.state.news, services, services.named(model))


def _events(news: Mapping[Service, News], services: Services, service: Service) -> Response:
    news[service].require_room()
    service.require_counts()
    first = server_sent({"models": list(services.by_name), **_limits(service.settings)}, kind="limits")
    return StreamingResponse(news[service].stream(first), media_type="text/event-stream", headers=NEVER_KEPT)


def _limits(settings: Settings) -> dict[str, int]:
    """Return what one request and one batch may have: the page sends no more."""
    return {
        "max_images_per_request": settings.max_images_per_request,
        "max_body_bytes": settings.max_body_bytes,
        "max_batch_size": settings.max_batch_size,
    }
