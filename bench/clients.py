"""Measure what a batch costs the clients of model servers: `python -m bench.clients`.

8 photographs, uint8 of 224 x 224 x 3, against a server that keeps the protocol, in a process of its own. The processor
time is that of this process alone: encoding, HTTP, the copy into the socket, decoding.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import numpy as np
import uvloop

from bench.tables import table
from models.choice import Choice
from models.open_inference import OpenInference, Served
from models.remote import RemoteModel
from models.server import ModelServer
from tests.open_inference_client import serving

IMAGES = 8
CALLS = {"on": 300, "off": 30}
WARM_UP_CALLS = 5


async def measure(url: str, binary: str) -> tuple[float, float]:
    """Return the median milliseconds of a call, of processor time and on the clock."""
    client = RemoteModel(
        ModelServer(url, setting="MICROBATCH_INFERENCE_URL", timeout_s=20),
        OpenInference(Served("photos", binary="on" if binary == "on" else "off"), Choice("open-inference")),
        max_batch_size=IMAGES,
    )
    batch = np.random.default_rng(0).integers(0, 256, (IMAGES, 224, 224, 3), np.uint8)
    try:
        await client.warm_up()
        return await _median_ms(lambda: client.predict(batch), CALLS[binary])
    finally:
        await client.close()


async def _median_ms(call: Callable[[], Awaitable[object]], calls: int) -> tuple[float, float]:
    for _ in range(WARM_UP_CALLS):
        await call()
    cpu_ms, clock_ms = [], []
    for _ in range(calls):
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        await call()
        cpu_ms.append((time.process_time() - cpu_began_s) * 1000)
        clock_ms.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(cpu_ms), statistics.median(clock_ms)


def main() -> int:
    """Measure each encoding and print them."""
    rows = [["encoding", "CPU ms a batch", "ms a batch"]]
    with serving() as (_, port):
        for name, binary in (("raw bytes", "on"), ("JSON", "off")):
            cpu_ms, clock_ms = uvloop.run(measure(f"http://127.0.0.1:{port}", binary))
            rows.append([name, f"{cpu_ms:.2f}", f"{clock_ms:.2f}"])
    print("\n".join(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
