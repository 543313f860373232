"""The page at `/` in a real browser: images go in, predictions and the life of the service come out."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.browser import ARGUMENTS, HOST, Visit, chromium
from tests.stack import PNG, ROOT, SEVEN, Stack, until_ready
from tools.service import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")
AXE = (Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js").read_text()
SHORT = {"MICROBATCH_WORKER_TIMEOUT_S": "1.5", "MICROBATCH_LEASE_S": "1"}
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
BRING = """([kind, bytes, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(bytes)], name, { type: "image/png" }));
    const event = kind === "paste"
        ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
        : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.getElementById("drop").dispatchEvent(event);
}"""


@dataclass(frozen=True)
class Served:
    """What runs, for all tests of this file."""

    stack: Stack
    batcher: subprocess.Popen[bytes]
    port: int


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    stack, port = Stack(tmp_path_factory.mktemp("page")), free_port()
    stack.start_redis()
    batcher = stack.start_batcher(**SHORT)
    stack.start_api_on(port, **SHORT)
    yield Served(stack, batcher, port)
    stack.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", trust_env=False, timeout=30) as opened:
        await until_ready(opened)
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield running
        await running.close()


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, client: httpx.AsyncClient, request: pytest.FixtureRequest) -> AsyncIterator[Visit]:
    """Open the page, at the size that the test asks for, and wait for the first news."""
    page = await browser.new_page(**getattr(request, "param", {"viewport": DESKTOP}))
    visiting = Visit(page)
    await page.goto(f"http://{HOST}:{client.base_url.port}/")
    await expect(page.locator("#ready")).to_have_text("ready")
    yield visiting
    await page.close()


def result(page: Page) -> Locator:
    """Return the card of the latest image."""
    return page.locator(".result").first


async def test_the_page_comes_with_a_strict_policy_and_holds_nothing_inline(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    again = await client.get("/", headers={"If-None-Match": page.headers["etag"]})

    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page.text)
    assert again.status_code == 304


async def test_a_chosen_image_is_answered_with_its_classes_its_wait_and_its_batch(visit: Visit) -> None:
    await visit.page.set_input_files("#files", ROOT / "examples" / "seven.png")

    card = result(visit.page)
    await expect(card.locator(".best strong")).to_have_text("7")
    await expect(card.locator(".class")).to_have_count(10)
    await expect(card.locator(".class.top .label")).to_have_text("7")
    for part in ("decode", "queue", "model", "total"):
        await expect(card.locator(".wait-words")).to_contain_text(re.compile(rf"{part} [\d.]+ m?s"))
    await expect(card.locator(".batch")).to_have_text("went to the model alone")
    await expect(visit.page.locator("#said")).to_have_text(re.compile(r"^seven\.png: 7, 9\d"))
    assert visit.errors == []
    assert visit.hosts - {""} == {re.sub(r"^http://|/$", "", visit.page.url)}  # "": the picture, from memory


@pytest.mark.parametrize("kind", ["drop", "paste"])
async def test_an_image_that_is_dropped_or_pasted_is_predicted(visit: Visit, kind: str) -> None:
    await visit.page.evaluate(BRING, [kind, list(SEVEN), "brought.png"])

    await expect(result(visit.page).locator(".best strong")).to_have_text("7")
    await expect(result(visit.page).get_by_alt_text("brought.png")).to_be_visible()
    assert visit.errors == []


async def test_a_digit_drawn_with_the_mouse_is_read(visit: Visit) -> None:
    sheet, mouse = visit.page.locator("#sheet"), visit.page.mouse
    box = await sheet.bounding_box()
    assert box

    async def stroke(*points: tuple[float, float]) -> None:
        for place, (x, y) in enumerate(points):
            await mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=6)
            if place == 0:
                await mouse.down()
        await mouse.up()

    await stroke((0.28, 0.18), (0.72, 0.18), (0.45, 0.85))
    await stroke((0.1, 0.1), (0.9, 0.9))
    await expect(sheet).to_have_attribute("aria-label", "Drawing: 2 strokes")
    await visit.page.get_by_role("button", name="Undo").click()
    await visit.page.get_by_role("button", name="Predict drawing").click()

    await expect(result(visit.page).locator(".best strong")).to_have_text("7")
    assert visit.errors == []


async def test_all_of_it_works_from_the_keyboard(visit: Visit) -> None:
    """The samples stand in for a drawing; each of the ten is read as what it is."""
    for digit in range(10):
        await visit.page.get_by_role("button", name=f"Sample digit {digit}").press("Enter")
        await visit.page.get_by_role("button", name="Predict drawing").press("Enter")
    await expect(visit.page.locator(".result .best strong")).to_have_text([str(digit) for digit in range(9, -1, -1)])

    await visit.page.get_by_role("button", name="Undo").focus()
    await visit.page.keyboard.press("Tab")
    await expect(visit.page.get_by_role("button", name="Clear")).to_be_focused()
    await visit.page.keyboard.press("Space")

    await expect(visit.page.locator("#sheet")).to_have_attribute("aria-label", "Drawing: empty")
    assert visit.errors == []


async def test_a_hundred_at_once_ride_in_few_batches_and_the_page_says_which(visit: Visit) -> None:
    await visit.page.get_by_role("button", name="Send 100 at once").click()

    told = visit.page.locator("#crowd-result")
    await expect(told).to_contain_text("Sent in 2 requests", timeout=20_000)
    sizes = [int(text) for text in await told.locator(".batches li").all_inner_texts()]
    assert sum(sizes) == 100
    assert max(sizes) > 1
    await expect(told).to_contain_text(f"for 100 images in {len(sizes)} batch")
    await expect(visit.page.locator("#sizes-chart .now")).to_have_text(f"{len(sizes) + 5} in the last minute")
    assert visit.errors == []


async def test_what_happens_shows_in_the_charts_about_a_second_later(visit: Visit, client: httpx.AsyncClient) -> None:
    """Each plot says what it shows; its picture differs too."""
    sizes = visit.page.locator("#sizes-chart")
    await expect(sizes.locator(".now")).to_have_text("0 in the last minute")
    before = await sizes.screenshot()

    await client.post("/predict", content=SEVEN, headers=PNG)

    await expect(sizes.locator(".now")).to_have_text("1 in the last minute", timeout=2000)
    await expect(sizes.get_by_role("img")).to_have_accessible_name(re.compile("most of 1$"))
    assert await sizes.screenshot() != before
    assert visit.errors == []


async def test_rates_and_latency_show_while_images_come(visit: Visit, client: httpx.AsyncClient) -> None:
    async def keep_on() -> None:
        while True:
            await client.post("/predict", content=SEVEN, headers=PNG)

    asking = asyncio.create_task(keep_on())
    said = {"throughput": r"images/s (?!0,)[\d.]+, errors/s 0$", "latency": r"p50 [\d.]+ m?s, p99 [\d.]+ m?s$"}
    for name, words in said.items():
        await expect(visit.page.locator(f"#{name}-chart .plot")).to_have_accessible_name(re.compile(words))
    await expect(visit.page.locator(".worker .facts").last).to_contain_text(re.compile(r" [1-9][\d.]* images/s"))
    asking.cancel()

    assert visit.errors == []


async def test_a_file_that_is_no_image_is_refused_in_words_that_help(visit: Visit) -> None:
    await visit.page.set_input_files("#files", ROOT / "README.md")

    problem = result(visit.page).locator(".problem")
    await expect(problem).to_contain_text("No image of an accepted format")
    await expect(problem).to_contain_text("Choose a photo or drawing")
    await expect(result(visit.page).get_by_role("button")).to_have_count(0)  # another try would end alike


@pytest.mark.parametrize(
    "visit",
    [
        {"viewport": size, "color_scheme": scheme, "reduced_motion": "reduce"}
        for size, scheme in ((DESKTOP, "light"), (PHONE, "dark"))
    ],
    indirect=True,
)
async def test_axe_objects_to_nothing_and_a_phone_shows_it_all(visit: Visit) -> None:
    page = visit.page
    await page.set_input_files("#files", [ROOT / "README.md", ROOT / "examples" / "seven.png"])
    await page.get_by_role("button", name="Sample digit 3").click()
    await expect(page.locator(".result .batch")).to_have_count(1)
    await expect(page.locator(".result .problem")).to_have_count(1)

    await page.evaluate(AXE)
    found = await page.evaluate("axe.run()")

    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


async def test_predictions_of_any_form_are_shown(visit: Visit) -> None:
    predictions = [
        {"label": 7, "score": 0.9, "scores": [0.1, 0.9]},
        {"label": "cat", "score": 0.6, "top": [{"label": "cat", "score": 0.6}, {"label": "dog", "score": 0.4}]},
        [{"label": "cat", "score": 2.5}],
        [0.25, 0.75],
        list(range(30)),
        {"mean": 3.5},
        7,
    ]

    shown = await visit.page.evaluate(
        "async (all) => { const { classesOf } = await import('/page/classes.js'); return all.map(classesOf); }",
        predictions,
    )

    assert shown[0] == [{"label": "0", "score": 0.1}, {"label": "1", "score": 0.9}]
    assert shown[1] == [{"label": "cat", "score": 0.6}, {"label": "dog", "score": 0.4}]
    assert shown[2] == [{"label": "cat", "score": 2.5}]
    assert shown[3] == [{"label": "0", "score": 0.25}, {"label": "1", "score": 0.75}]
    assert [one["label"] for one in shown[4]] == [str(number) for number in range(29, 19, -1)]
    assert shown[5:] == [None, None]


async def test_a_batcher_killed_is_seen_as_gone_and_the_page_says_what_to_do(visit: Visit, served: Served) -> None:
    # given: the only batcher is killed
    row = visit.page.locator(f".worker[data-id*='-{served.batcher.pid}-']")
    await expect(row.locator(".state")).to_have_text("idle")
    served.batcher.kill()

    # then: it is gone, and an image is refused with what is missing
    await expect(row.locator(".state")).to_have_text("gone", timeout=5_000)
    await expect(visit.page.locator("#ready")).to_contain_text("no batcher is alive")
    await visit.page.set_input_files("#files", ROOT / "examples" / "seven.png")
    await expect(result(visit.page).locator(".problem")).to_contain_text("start one, or wait for it")

    # when: another is started, the same image can be tried again
    served.stack.start_batcher(**SHORT)
    await expect(visit.page.locator("#ready")).to_have_text("ready", timeout=15_000)
    await expect(visit.page.locator(".worker .state").last).to_have_text("idle")
    await result(visit.page).get_by_role("button", name="Try again").click()
    await expect(result(visit.page).locator(".best strong")).to_have_text("7")


async def test_an_api_that_is_gone_is_said_and_its_return_is_noticed(browser: Browser, served: Served) -> None:
    # given: a page whose api ends
    port = free_port()
    api = served.stack.start_api_on(port, **SHORT)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        await until_ready(client)
    page = await browser.new_page()
    await page.goto(f"http://{HOST}:{port}/")
    await expect(page.locator("#ready")).to_have_text("ready")
    api.terminate()

    # then: it ends at once, though a page listens, and the page says so
    assert await asyncio.to_thread(api.wait, 2) == 0
    await expect(page.locator("#live-trouble")).to_contain_text("cannot be reached", timeout=6_000)

    # when
    served.stack.start_api_on(port, **SHORT)
    await expect(page.locator("#live-trouble")).to_be_hidden(timeout=15_000)
    await page.close()


async def test_another_model_is_chosen_at_the_top(browser: Browser, stack: Stack) -> None:
    # given
    port = free_port()
    settings = {"MICROBATCH_MODELS": "digits,other", "MICROBATCH_OTHER__MODEL": "simulated"}
    stack.start_redis()
    for model in ("digits", "other"):
        stack.start(sys.executable, "batcher.py", model, **settings)
    stack.start_api_on(port, **settings)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        await until_ready(client)
    visit = Visit(await browser.new_page(viewport={"width": 360, "height": 740}))
    await visit.page.goto(f"http://{HOST}:{port}/")

    # when
    await visit.page.get_by_role("combobox", name="Model").select_option("other")
    await visit.page.wait_for_url("**/?model=other")
    await expect(visit.page.locator("#ready")).to_have_text("ready")
    async with visit.page.expect_response("**/predict/other") as answered:
        await visit.page.set_input_files("#files", ROOT / "examples" / "seven.png")

    # then
    assert (await answered.value).status == 200
    await expect(result(visit.page)).to_contain_text('"sum"')
    await expect(visit.page.locator("#workers")).to_contain_text("idle")
    await expect(visit.page.get_by_role("combobox", name="Model")).to_have_value("other")
    assert visit.errors == []
    await visit.page.close()
