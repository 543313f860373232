"""What an api process takes of its machine's memory is bounded, whatever is sent to it."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from bench.load import request_bytes
from tests.pictures import encoded
from tests.stack import PNG, SEVEN, Stack, until_ready

BATCHER = (sys.executable, "batcher.py")
MIB = 1024 * 1024
SPARE_BYTES = 150 * MIB
"""What a process may take beside its idle memory and the limit: it allocates more than what it holds of requests."""
ANSWERS = {200, 413, 429, 504}
SETTINGS = {
    "MICROBATCH_MODELS": "files,photos",
    "MICROBATCH_MODEL": "simulated",
    "MICROBATCH_FILES__INPUT_SHAPE": "2800,2800,3",  # 23.5 MB: all files are smaller, and are decoded by the batcher
    "MICROBATCH_PHOTOS__INPUT_SHAPE": "224,224,3",
    "MICROBATCH_REQUEST_TIMEOUT_S": "2",
    "MICROBATCH_REDIS_TIMEOUT_S": "20",  # the machine is busy with the flood
    "MICROBATCH_WORKER_TIMEOUT_S": "30",
    "MICROBATCH_MAX_BATCH_SIZE": "2",
    "MICROBATCH_FILES__SIMULATED_BATCH_S": "0.5",
    "MICROBATCH_PHOTOS__DECODE_IN": "api",
    "MICROBATCH_LOG_LEVEL": "error",
}


@dataclass
class Flood:
    """Connections that each send requests one after the other.

    statuses: of all answers; 0: the connection was closed.
    """

    place: str
    requests: Sequence[bytes]
    end_s: float
    statuses: Counter[int] = field(default_factory=Counter)

    async def run(self, connections: int) -> Counter[int]:
        """Send from so many connections until the end; return the statuses."""
        await asyncio.gather(*(self._send(number) for number in range(connections)))
        return self.statuses

    async def _send(self, number: int) -> None:
        while time.monotonic() < self.end_s:
            reader, writer = await asyncio.open_unix_connection(self.place)
            try:
                while time.monotonic() < self.end_s:
                    number += 1
                    writer.write(self.requests[number % len(self.requests)])
                    self.statuses[await asyncio.wait_for(_status(reader), 30)] += 1
                    with suppress(ConnectionError):  # what was refused unread is still on its way
                        await writer.drain()
            except (ConnectionError, asyncio.IncompleteReadError):
                self.statuses[0] += 1
            finally:
                writer.transport.abort()


async def _status(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    return int(head[9:12])


def floods(size_bytes: int) -> list[bytes]:
    """Return requests of each kind of body, each about so long."""
    noise = np.random.default_rng(1).bytes(size_bytes)
    file = SEVEN + noise  # whoever looks at its beginning only takes it for an image
    form = b'--edge\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
    half = len(file) // 2
    bodies = [
        ("/predict/files", "image/png", file),
        (
            "/predict/files",
            "application/json",
            b'{"instances":[{"b64":"%b"}]}' % base64.b64encode(file[: half * 3 // 2]),
        ),
        (
            "/predict/files",
            "multipart/form-data; boundary=edge",
            b"".join((form, file[:half], b"\r\n", form, file[:half], b"\r\n--edge--\r\n")),
        ),
        ("/predict/files", "application/x-npy", npy_of(2800)),
        (
            "/v1/models/files:predict",
            "application/json",
            b'{"instances":[{"b64":"%b"}]}' % base64.b64encode(file[:half]),
        ),
        *(("/predict/photos", "image/png", one) for one in pictures(size_bytes)),
    ]
    return [request_bytes("http://service", body, kind, path=path) for path, kind, body in bodies]


def npy_of(side: int) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({side}, {side}, 3), }}".encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(3 * side * side)


def pictures(size_bytes: int) -> list[bytes]:
    """Return image files of many pixels, which an api decodes: transparent ones, deep ones, progressive ones."""
    side = int((size_bytes / 4) ** 0.5) * 2  # four times as many pixels as the other files have bytes
    ramp = np.add.outer(np.arange(side) % 251, np.arange(side) % 7).astype(np.uint8)
    grey = Image.fromarray(ramp)
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (side // 4, side // 4), np.uint8))
    return [
        encoded(Image.merge("RGBA", (grey, grey, grey, grey)), "png", compress_level=1),
        encoded(Image.fromarray(ramp.astype(np.uint16) * 257), "png", compress_level=1),
        encoded(Image.merge("RGB", (grey, grey, grey)), "jpeg", progressive=True),
        encoded(grey, "tiff", compression="tiff_lzw"),
        encoded(noise, "webp", lossless=True),
    ]


def memory_bytes(process: subprocess.Popen[bytes], name: str) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


async def start(stack: Stack, client: httpx.AsyncClient, limit_bytes: int) -> subprocess.Popen[bytes]:
    settings: Mapping[str, str] = SETTINGS | {"MICROBATCH_MAX_HELD_BYTES": str(limit_bytes)}
    stack.start_redis()
    for model in ("files", "photos"):
        stack.start(*BATCHER, model, **settings)
    api = stack.start_api(**settings)
    await until_ready(client)
    return api


async def check_bound(
    stack: Stack, client: httpx.AsyncClient, *, limit_bytes: int, size_bytes: int, seconds: float
) -> None:
    """Flood an api from far more connections than fit; it stays within its bound, and serves afterwards."""
    # given
    api = await start(stack, client, limit_bytes)
    idle_bytes = memory_bytes(api, "VmRSS")
    requests = floods(size_bytes)
    connections = 3 * limit_bytes // size_bytes

    # when
    flood = Flood(f"{stack.folder}/api.sock", requests, time.monotonic() + seconds)
    statuses = await flood.run(connections)
    peak_bytes = memory_bytes(api, "VmHWM")
    print(  # noqa: T201  # the figures of the run, shown by -rP
        f"limit {limit_bytes // MIB} MiB, {connections} connections: idle {idle_bytes // MIB}, "
        f"peak {peak_bytes // MIB}, over idle {(peak_bytes - idle_bytes) // MIB} MiB; {dict(statuses)}"
    )

    # then
    assert peak_bytes <= idle_bytes + limit_bytes + SPARE_BYTES
    assert set(statuses) <= ANSWERS
    assert (await client.post("/predict/photos", content=SEVEN, headers=PNG)).status_code == 200


async def test_a_flood_of_large_bodies_stays_within_a_small_limit(stack: Stack, client: httpx.AsyncClient) -> None:
    await check_bound(stack, client, limit_bytes=64 * MIB, size_bytes=3 * MIB, seconds=0.3)


@pytest.mark.long
@pytest.mark.parametrize("limit_mib", [64, 256, 512])
@pytest.mark.parametrize("size_mib", [2, 15])
async def test_a_flood_of_bodies_stays_within_the_limit(
    stack: Stack, client: httpx.AsyncClient, limit_mib: int, size_mib: int
) -> None:
    await check_bound(stack, client, limit_bytes=limit_mib * MIB, size_bytes=size_mib * MIB, seconds=15)


def photo_of(megapixels: float, kind: str) -> bytes:
    side = int((megapixels * 1_000_000) ** 0.5)
    small = np.random.default_rng(3).integers(0, 256, (side // 24, side // 24, 3), np.uint8)
    image = Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)
    return encoded(image, kind, **({"compress_level": 1} if kind == "png" else {"quality": 90}))


def ordinary(kind: str) -> tuple[bytes, str]:
    """Return a body and its type."""
    if kind == "batches of 64":
        part = b'--edge\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n%b\r\n' % photo_of(0.2, "jpeg")
        return part * 64 + b"--edge--\r\n", "multipart/form-data; boundary=edge"
    if kind == "photos of 2 MB":
        file = photo_of(1, "jpeg")
        return file + bytes(2 * MIB - len(file)), "image/jpeg"
    return photo_of(12, kind.rpartition(" ")[2]), "image/" + kind.rpartition(" ")[2]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["photos of 2 MB", "12 megapixels in jpeg", "12 megapixels in png", "batches of 64"])
async def test_ordinary_load_is_served_at_the_default_limit(stack: Stack, client: httpx.AsyncClient, kind: str) -> None:
    # given
    settings = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_INPUT_SHAPE": "224,224,3"}
    settings["MICROBATCH_MAX_QUEUE_DEPTH"] = "9999"
    stack.start_redis()
    stack.start_batcher(**settings)
    api = stack.start_api(**settings)
    await until_ready(client)
    body, content_type = ordinary(kind)

    # when
    request = request_bytes("http://service", body, content_type)
    clients = 16 if "png" in kind else 64  # of 15 MB each
    statuses = await Flood(f"{stack.folder}/api.sock", [request], time.monotonic() + 5).run(clients)
    peak_mib = memory_bytes(api, "VmHWM") // MIB
    print(f"{kind}: {len(body) / MIB:.1f} MiB each, peak {peak_mib} MiB, {dict(statuses)}")  # noqa: T201

    # then
    assert set(statuses) == {200}
