"""The page at /docs is whole without any other host, and its example can be executed as it stands."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import ConsoleMessage, Page, async_playwright, expect

from tests.stack import Stack, until_ready
from tools.service import free_port

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
REFERENCE = re.compile(r"""\b(?:src|href)\s*=\s*["']?([^"'\s>]+)""")


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
        if message.type == "error":
            self.errors.append(message.text)


@pytest.fixture
def chromium() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on PATH")
    return found


@pytest.fixture
async def visit(chromium: str) -> AsyncIterator[Visit]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield Visit(await browser.new_page())
        await browser.close()


async def test_the_example_of_predict_is_answered_with_a_digit(shared_stack: Stack) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)
        document = (await client.get("/openapi.json")).json()
        example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]

        answer = await client.post("/predict", json=example)

    assert answer.status_code == 200
    assert [prediction["label"] in range(10) for prediction in answer.json()["predictions"]] == [True]


async def test_the_page_refers_to_nothing_but_files_that_the_service_has(shared_stack: Stack) -> None:
    async with shared_stack.client() as client:
        await until_ready(client)
        page = await client.get("/docs")

        references = [one for one in REFERENCE.findall(page.text) if not one.startswith("data:")]
        statuses = {one: (await client.get(one)).status_code for one in references if not urlsplit(one).netloc}

    assert page.status_code == 200
    assert {one.rpartition(".")[2] for one in references} >= {"js", "css"}
    assert statuses == dict.fromkeys(references, 200)


async def test_a_browser_executes_the_example_and_asks_no_other_host(shared_stack: Stack, visit: Visit) -> None:
    # given: the page under a name of its own, and the form of POST /predict open
    port = free_port()
    shared_stack.start_api_on(port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        await until_ready(client)
    await visit.page.goto(f"http://{HOST}:{port}/docs")
    predict = visit.page.locator(".opblock", has=visit.page.locator("[data-path='/predict']"))
    await predict.get_by_role("button", name="POST /predict Predict").click()

    # when
    await predict.get_by_role("button", name="Try it out").click()
    await predict.get_by_role("button", name="Execute").click()

    # then
    answer = predict.locator(".live-responses-table")
    await answer.wait_for()
    await expect(answer.locator(".response-col_status").last).to_have_text("200")
    await expect(answer.locator(".response-col_description").last).to_contain_text('"label":')

    assert visit.hosts - {""} == {f"{HOST}:{port}"}
    assert visit.errors == []
