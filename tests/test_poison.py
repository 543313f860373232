"""An image that ends the process that runs it: it is given up, its neighbours are not, and it is kept."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.scale import times
from tests.stack import ROOT, Stack, npy, until_ready

MODEL = """
import os, signal
class Model:
    input_shape = (4,)
    def predict(self, batch):
        if (batch[:, 0] == 255).any() and not os.path.exists({cure!r}):
            os.kill(os.getpid(), signal.SIGKILL)
        return [int(row[1]) + 256 * int(row[2]) for row in batch]
"""


class Nursery:
    """Starts each batcher again that dies, as Compose or `make run` would.

    code: with which they end.
    """

    def __init__(self, stack: Stack, *, code: int = -signal.SIGKILL, **settings: str) -> None:
        self._stack = stack
        self._code = code
        self._settings = settings
        self._batcher = stack.start_batcher(**settings)
        self.deaths = 0

    async def keep(self) -> None:
        while True:
            if self._batcher.poll() is not None:
                assert self._batcher.returncode == self._code
                self.deaths += 1
                self._batcher = self._stack.start_batcher(**self._settings)
            await asyncio.sleep(0.02)


def dead(stack: Stack, *arguments: str) -> str:
    environment = os.environ | {"REDIS_URL": f"unix://{stack.folder}/redis.sock"}
    command = [sys.executable, "-m", "tools.dead", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


async def predict(client: httpx.AsyncClient, number: int, *, poison: bool) -> httpx.Response:
    tensor = np.array([255 if poison else 0, number % 256, number // 256, 0], np.uint8)
    return await client.post("/predict", content=npy(tensor), headers={"Content-Type": "application/x-npy"})


@pytest.mark.chaos
@pytest.mark.parametrize("poisons", [1] if times(1, 2) == 1 else [1, 4])
async def test_poison_is_given_up_kept_and_can_be_queued_again(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path, poisons: int
) -> None:
    # given: images, a few of which kill their process
    cure, count, max_solo = tmp_path / "cure", times(64, 1024), 2
    (tmp_path / "killer.py").write_text(MODEL.format(cure=str(cure)))
    stack.start_redis()
    nursery = Nursery(
        stack,
        PYTHONPATH=str(tmp_path),
        MICROBATCH_MODEL="python:killer:Model",
        MICROBATCH_LEASE_S="0.3",
        MICROBATCH_MAX_SOLO=str(max_solo),
    )
    stack.start_api(MICROBATCH_REQUEST_TIMEOUT_S="120", MICROBATCH_MAX_QUEUE_DEPTH="2000")
    await until_ready(client)
    keeping = asyncio.create_task(nursery.keep())
    guilty = set(range(5, count, count // poisons)) if poisons > 1 else {5}

    # when
    answers = await asyncio.gather(*(predict(client, one, poison=one in guilty) for one in range(count)))

    # then
    codes = [answers[one].json().get("code") for one in sorted(guilty)]
    innocent = [answers[one].json().get("predictions") for one in range(count) if one not in guilty]
    listed = dead(stack).splitlines()
    assert codes == ["model_failed"] * len(guilty)
    assert innocent == [[one] for one in range(count) if one not in guilty]
    assert nursery.deaths <= (2 + max_solo) * len(guilty)
    assert len(listed) == len(guilty)

    # and when: the model was mended
    cure.touch()
    place = dead(stack, "--requeue", listed[0].split()[1]).split()[-1]
    end_s = time.monotonic() + 10
    while (answer := await client.get(place)).status_code != 200:
        assert time.monotonic() < end_s, answer.text
        await asyncio.sleep(0.02)

    assert answer.json()["predictions"][0] in guilty
    assert len(dead(stack).splitlines()) == len(guilty) - 1
    keeping.cancel()
