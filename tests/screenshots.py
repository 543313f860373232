"""Take the README's pictures of the page: `make screenshots`, two minutes with the real service under load.

The model is the shipped one, slowed to 40 ms a batch, and one batcher of three is killed on the way.
"""

from __future__ import annotations

import asyncio
import io
import math
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from playwright.async_api import Page, expect

from tests.browser import opened
from tests.stack import ROOT, Stack, npy, until_ready
from tools.service import free_port

MODEL = "python:tests.slow_digits:SlowDigits"
TENSOR = npy(np.zeros((8, 8), np.uint8))
FILL_S, GONE_S = 42.0, 14.0
WAVE_S = 9.0
MOST_CLIENTS = 60
FOLDER = ROOT / "docs"


async def main() -> None:
    """Fill the charts of both pages, kill a batcher, use the pages, take the pictures."""
    stack, port = Stack(Path(tempfile.mkdtemp())), free_port()
    stack.start_redis()
    batchers = [stack.start_batcher(MICROBATCH_MODEL=MODEL) for _ in range(3)]
    stack.start_api_on(port)
    url = f"http://127.0.0.1:{port}"
    desktop = opened(viewport={"width": 1280, "height": 860}, color_scheme="light")
    phone = opened(viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
    try:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client, desktop as wide, phone as narrow:
            await until_ready(client)
            load = asyncio.create_task(send_waves(client))
            for visit in (wide, narrow):
                await visit.page.goto(url)
            await asyncio.sleep(FILL_S)
            batchers[1].kill()
            await asyncio.sleep(GONE_S)
            for visit in (wide, narrow):
                await use(visit.page)
            await narrow.page.locator("#crowd-title").evaluate("(title) => title.closest('.card').scrollIntoView()")
            save(await wide.page.screenshot(full_page=True), "page.webp")
            save(await narrow.page.screenshot(), "page-phone.webp")
            load.cancel()
    finally:
        stack.kill()


async def send_waves(client: httpx.AsyncClient) -> None:
    """Ask for predictions, now with a few clients at once, now with many."""
    asking: set[asyncio.Task[httpx.Response]] = set()
    while True:
        wanted = round(MOST_CLIENTS * (0.55 + 0.45 * math.sin(time.monotonic() * 2 * math.pi / WAVE_S)))
        while len(asking) < wanted:
            asking.add(asyncio.create_task(ask(client)))
        _, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/predict", content=TENSOR, headers={"Content-Type": "application/x-npy"})


async def use(page: Page) -> None:
    """Bring a file that is none, draw a digit, bring a picture, send it a hundred times."""
    await page.get_by_role("button", name="Sample digit 3").click()
    await page.get_by_role("button", name="Predict drawing").click()
    await expect(page.locator(".result .batch")).to_have_count(1)
    await page.set_input_files("#files", ROOT / "examples" / "drawn-4.png")
    await expect(page.locator(".result .batch")).to_have_count(2)
    await page.get_by_role("button", name="Send 100 at once").click()
    await expect(page.locator("#crowd-result")).to_contain_text("Sent in", timeout=30_000)


def save(png: bytes, name: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    Image.open(io.BytesIO(png)).convert("RGB").save(FOLDER / name, quality=84, method=6)


if __name__ == "__main__":
    asyncio.run(main())
