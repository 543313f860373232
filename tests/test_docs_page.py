"""The page at /docs is whole without any other host, and its example can be executed as it stands."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import expect

from tests.browser import HOST, Visit, opened
from tests.stack import Stack, until_ready
from tools.service import free_port

REFERENCE = re.compile(r"""\b(?:src|href)\s*=\s*["']?([^"'\s>]+)""")


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with opened() as visiting:
        yield visiting


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
