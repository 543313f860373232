"""A real browser for tests of what people look at, and the pages that it opens."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOST = "service.test"  # under the name localhost, Swagger UI would never ask its validator's host
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
)


@dataclass
class Visit:
    """A page in a browser, whom it asked, and what it complained about."""

    page: Page
    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Listen from the first request on."""
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.on("websocket", lambda websocket: self.hosts.add(urlsplit(websocket.url).netloc))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)


def chromium() -> str:
    """Return the browser; without one, skip the test, but in continuous integration fail it."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail("no Chromium on PATH: apt-get install chromium")
    if found is None:
        pytest.skip("no Chromium on PATH")
    return found


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Visit]:
    """Open an empty page; options: what Playwright calls those of a context."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield Visit(await browser.new_page(**options))
        await browser.close()
