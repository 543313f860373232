"""Whoever gives up leaves nothing behind in Redis, whenever it is, and takes nobody else's answer along."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from tests.fleet import Fleet, until
from tests.history import History
from tests.questions import Sums
from tests.scale import SEED, times
from tests.stack import Stack

CLIENTS = 48
WITHIN_S = 40.0
LONGEST_PAUSE_S = 0.8


class Quitters:
    """Clients that ask, and have no patience; `cancelled` counts those who were told that it is so."""

    def __init__(self, fleet: Fleet) -> None:
        self.history = History()
        self.cancelled = 0
        self._fleet = fleet
        self._random = random.Random(SEED)  # noqa: S311  # repeatable is what it must be
        self._sums = Sums()

    async def run(self, until_cancelled: int) -> None:
        """Ask and quit until so many have been cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(self._client(until_cancelled))

    async def _client(self, until_cancelled: int) -> None:
        while self.cancelled < until_cancelled:
            prefer = self._random.choice(["respond-async", "respond-async", "wait=0", "wait=1"])
            question = self._sums(self._random.choice([1, 1, 3]))
            headers = {"Content-Type": question.content_type, "Prefer": prefer}
            request = self.history.sent(question.right, within_s=WITHIN_S)
            api = self._random.choice(self._fleet.clients)
            answer = await api.post("/predict", content=question.body, headers=headers)
            body = answer.json()
            if answer.status_code == 202:
                self.history.saw(request, "accepted", id=body["id"])
                await self._change_its_mind(request, answer.headers["Location"])
            elif answer.status_code == 200:
                self.history.saw(request, "answered", id=body["id"], predictions=body["predictions"])
            elif answer.status_code == 504:
                self._note_cancelled(request)
            else:
                self.history.saw(request, "refused" if answer.status_code == 429 else "failed", code=body["code"])
                await asyncio.sleep(0.02)

    async def _change_its_mind(self, request: int, place: str) -> None:
        """Cancel after a while, often at once and sometimes when the result is there; then look for it."""
        await asyncio.sleep(self._random.random() ** 3 * LONGEST_PAUSE_S)
        before = await self._random.choice(self._fleet.clients).get(place)
        if before.status_code == 200:
            self.history.saw(request, "answered", predictions=before.json()["predictions"])
        deleted = await self._random.choice(self._fleet.clients).delete(place)
        assert deleted.status_code == 204
        self._note_cancelled(request)
        after = await self._random.choice(self._fleet.clients).get(place)
        if after.status_code != 404:
            self.history.saw(request, "answered", code=f"after DELETE: {after.status_code}")

    def _note_cancelled(self, request: int) -> None:
        self.history.saw(request, "cancelled")
        self.cancelled += 1


async def nothing_remains(fleet: Fleet) -> bool:
    return not await fleet.depth() and not await fleet.remains(results_too=True)


@pytest.mark.chaos
async def test_cancellations_at_any_moment_leave_nothing_behind(stack: Stack) -> None:
    settings = {"MODEL": "simulated", "SIMULATED_BATCH_S": "0.03", "MAX_BATCH_SIZE": "4", "LOG_LEVEL": "error"}
    async with Fleet(stack, apis=2, batchers=2, **settings) as fleet:
        quitters = Quitters(fleet)

        await quitters.run(times(500, 50_000))
        await until(f"Redis holds nothing any more, SEED={SEED}", lambda: nothing_remains(fleet))
        violations = await fleet.audit()

    print(f"SEED={SEED}: {quitters.cancelled} cancelled of {len(quitters.history.requests)}")  # noqa: T201
    assert violations == [], f"SEED={SEED}"
    assert quitters.history.violations(until_s=time.monotonic() + WITHIN_S) == [], f"SEED={SEED}"
