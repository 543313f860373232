"""What the API says of itself: the description of its requests, and the page that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from ids import SAFE_ID

SWAGGER_UI = Path(__file__).parent / "page" / "vendor" / "swagger-ui"
SAMPLE_DIGIT = (  # a PNG of 8x8 pixels, so that the example in /docs can be executed as it is
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAANUlEQVR42iXJQQ3AQAgAsAYFSE"
    "DCHE/CLJ2DwwF78GtS1LzAM5ME5TTB0Vs5FwG5SF17dz5+/OANkOLFA2UAAAAASUVORK5CYII="
)
INSTANCE = {"type": "object", "required": ["b64"], "properties": {"b64": {"type": "string", "format": "byte"}}}
REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["instances"],
                "properties": {"instances": {"type": "array", "items": INSTANCE}},
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


Responses = dict[int | str, dict[str, Any]]
PREFER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "schema": {"type": "string"},
    "description": "`wait=n`: wait at most n seconds; `respond-async`: 202 at once, the result is at `Location`",
}
IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "Of your own making: a repeated request with it and the same body runs once and is answered alike",
}
X_REQUEST_ID: dict[str, Any] = {
    "name": "X-Request-ID",
    "in": "header",
    "schema": {"type": "string", "pattern": f"^{SAFE_ID.pattern}$"},
    "description": "Of your own making: it is logged and comes back with the answer",
}
PREDICTIONS: Responses = {
    200: {
        "description": "One prediction an image, in the order sent; an image that failed has `error` instead",
        "content": {"application/json": {"example": {"id": "…", "predictions": [{"label": 7, "score": 0.9996}]}}},
    },
    202: {
        "description": "Not done yet: ask again at `Location`",
        "headers": {"Location": {"schema": {"type": "string"}}},
        "content": {"application/json": {"example": {"id": "…", "status": "accepted"}}},
    },
}
PROBLEM: Responses = {  # "default" also keeps FastAPI from promising a 422 of its own
    "default": {
        "description": "A problem (RFC 9457) with a stable `code`",
        "content": {
            "application/problem+json": {
                "schema": {"type": "object", "required": ["type", "title", "status", "code", "detail"]},
                "example": {
                    "type": "about:blank",
                    "title": "Service Unavailable",
                    "status": 503,
                    "code": "unavailable",
                    "detail": "no batcher is alive and warm; start one, or wait for it",
                },
            }
        },
    }
}


def add_docs(app: FastAPI) -> None:
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
