"""Measure the founding table on the real service: `python -m bench.seed [--markdown]`, or `make bench-seed`.

Decoding takes 0.5 s, a batch of up to 5 images 0.5 s, and 1 to 200 images are sent at the same moment, to one
batcher and to two. No service can be faster than one decoding and then full batches back to back: the limit.
The published figures are those of the project that this one grew from. A row that is not within 3 % or 0.05 s
of its limit fails the run, and so does an answer that belongs to another image.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from bench.tables import table
from bench.workloads import npy
from config import PREFIX
from errors import StartError
from model_set import load_models
from tools.processes import say
from tools.service import LocalService, free_port

DECODE_S = 0.5
BATCH_S = 0.5
BATCH_SIZE = 5
SHAPE = (32, 32, 3)
SETTINGS = {
    "MODEL": "simulated",
    "SIMULATED_BATCH_S": str(BATCH_S),
    "SIMULATED_DECODE_S": str(DECODE_S),
    "MAX_BATCH_SIZE": str(BATCH_SIZE),
    "REQUEST_TIMEOUT_S": "60",
    "QUEUE_NAME": "bench-seed",
}
PUBLISHED_S = {  # batchers → images → seconds
    1: {1: 1.07, 10: 2.26, 50: 7.49, 100: 12.72, 200: 25.1},
    2: {1: 1.07, 10: 1.67, 50: 4.05, 100: 7.18, 200: 13.0},
}
READY_S = 30.0
ANSWER_S = 90.0


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: how long it took until all images were answered."""

    batchers: int
    images: int
    ours_s: float

    @property
    def limit_s(self) -> float:
        """What decoding and full batches take at least."""
        return DECODE_S + math.ceil(self.images / (BATCH_SIZE * self.batchers)) * BATCH_S

    @property
    def within(self) -> bool:
        """Whether it is on target; faster than the limit would mean that something else was measured."""
        return abs(self.ours_s - self.limit_s) <= max(0.03 * self.limit_s, 0.05)

    def cells(self) -> list[str]:
        """Return it as the texts of a table's row."""
        published_s = PUBLISHED_S[self.batchers][self.images]
        verdict = "yes" if self.within else "NO"
        times = [f"{value:.2f} s" for value in (published_s, self.limit_s, self.ours_s)]
        return [str(self.batchers), str(self.images), *times, verdict]


HEADER = ["batchers", "images", "published", "limit", "ours", "on target"]


def main() -> int:
    """Measure all rows and print them; return 1 when one misses its target."""
    parser = argparse.ArgumentParser(description="Measure the founding table.")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    markdown = parser.parse_args().markdown
    _set_environment()
    try:
        rows = [row for batchers in PUBLISHED_S for row in _measure_with(batchers)]
    except StartError as exc:
        say(str(exc))
        return 1
    print("\n".join(table([HEADER, *(row.cells() for row in rows)], markdown=markdown)))
    return 0 if all(row.within for row in rows) else 1


def _set_environment() -> None:
    """Let the table's settings hold, and none that happen to be set here; REDIS_URL stays."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]
    os.environ.update({PREFIX + key: value for key, value in SETTINGS.items()})


def _measure_with(batchers: int) -> Iterator[Row]:
    """Start the service with so many batchers and measure each number of images."""
    service = LocalService(load_models(), batchers=batchers, host="127.0.0.1", port=free_port())
    try:
        service.start()
        _wait_until_ready(service, batchers)
        asyncio.run(_send(service.url, 1))  # the first request of a new process pays for what it loads
        for images in PUBLISHED_S[batchers]:
            row = Row(batchers, images, asyncio.run(_send(service.url, images)))
            say(f"{batchers} batcher(s), {images} image(s): {row.ours_s:.3f} s (limit {row.limit_s:.1f} s)")
            yield row
    finally:
        service.stop()


def _wait_until_ready(service: LocalService, batchers: int) -> None:
    deadline = time.monotonic() + READY_S
    while (health := service.health()).workers != batchers:
        if time.monotonic() > deadline:
            raise StartError(f"not ready with {batchers} batchers after {READY_S:g} s: {health.missing}")
        time.sleep(0.1)


async def _send(url: str, images: int) -> float:
    """Send so many different images at once; return how long it took until all were answered right."""
    bodies = [_tensor(number) for number in range(images)]
    address = urlsplit(url)
    connections = await asyncio.gather(*(asyncio.open_connection(address.hostname, address.port) for _ in bodies))
    requests = [_request(address.netloc, body) for body in bodies]
    started = time.monotonic()
    for (_reader, writer), request in zip(connections, requests, strict=True):
        writer.write(request)
    replies = await asyncio.gather(*(asyncio.wait_for(reader.read(), ANSWER_S) for reader, _writer in connections))
    took_s = time.monotonic() - started
    for _reader, writer in connections:
        writer.close()
    answers = [_predictions(reply) for reply in replies]
    for number, answer in enumerate(answers):
        expected = [{"sum": number * math.prod(SHAPE)}]
        if answer != expected:
            raise StartError(f"image {number} was answered {answer} instead of {expected}")
    return took_s


def _request(host: str, body: bytes) -> bytes:
    """Return a whole request: a client library would take longer to send them all than a batch may wait."""
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/x-npy\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _predictions(reply: bytes) -> object:
    answer = json.loads(reply.partition(b"\r\n\r\n")[2])
    return answer.get("predictions", answer)


def _tensor(number: int) -> bytes:
    """Return an image whose sum tells it apart from all others, as `.npy`."""
    return npy(np.full(SHAPE, number, np.uint8))


if __name__ == "__main__":
    sys.exit(main())
