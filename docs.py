"""What the API says of itself: the description of its requests, and the page that shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

SWAGGER_UI = Path(__file__).parent / "page" / "vendor" / "swagger-ui"
SAMPLE_DIGIT = (  # a PNG of 8x8 pixels, so that the example in /docs can be executed as it is
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAANUlEQVR42iXJQQ3AQAgAsAYFSE"
    "DCHE/CLJ2DwwF78GtS1LzAM5ME5TTB0Vs5FwG5SF17dz5+/OANkOLFA2UAAAAASUVORK5CYII="
)
REQUEST_BODY: dict[str, Any] = {
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

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")
