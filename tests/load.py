"""Clients in a closed loop that write down all they see."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Literal

import httpx

from tests.history import History
from tests.questions import Ask

Style = Literal["wait", "several", "respond-async", "respond-async several"]
STYLES: Sequence[Style] = ("wait", "several", "respond-async", "respond-async several")
WEIGHTS = (11, 3, 4, 2)
PAUSE_S = 0.02
"""After a refusal or a broken connection, and between two looks at a result."""


class Load:
    """Asks until told to stop, over several apis; what is asked asynchronously is collected at another one.

    answered: how many images have been, each counted once.
    """

    def __init__(self, history: History, apis: Sequence[httpx.AsyncClient], ask: Ask, *, within_s: float) -> None:
        self._history = history
        self._apis = apis
        self._ask = ask
        self._within_s = within_s
        self._random = random.Random(1)  # noqa: S311  # what is asked, not a secret
        self.answered = 0

    async def run(self, clients: int, stopping: asyncio.Event, *, styles: Sequence[Style] = STYLES) -> None:
        """Run so many clients; those that have asked when told to stop wait for their answers."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(clients):
                tasks.create_task(self._client(stopping, styles))

    async def _client(self, stopping: asyncio.Event, styles: Sequence[Style]) -> None:
        while not stopping.is_set():
            await self.request(self._random.choices(styles, [WEIGHTS[STYLES.index(style)] for style in styles])[0])

    async def request(self, style: Style) -> None:
        """Ask once and see it through."""
        count = self._random.randint(2, 6) if style.endswith("several") else 1
        question = self._ask(count)
        number = self._random.randrange(len(self._apis))
        headers = {"Content-Type": question.content_type}
        if style.startswith("respond-async"):
            headers["Prefer"] = "respond-async"
        request = self._history.sent(question.right, within_s=self._within_s)
        try:
            answer = await self._apis[number].post(
                "/predict", content=question.body, headers=headers, timeout=self._within_s
            )
        except httpx.TimeoutException:
            return  # its deadline is over: the history knows
        except httpx.TransportError:
            self._history.saw(request, "broken")
            await asyncio.sleep(PAUSE_S)
            return
        if answer.status_code == 202:
            self._history.saw(request, "accepted", id=answer.json()["id"])
            await self._collect(request, answer.headers["Location"], number)
        elif not self._settled(request, answer):
            await asyncio.sleep(PAUSE_S)

    async def _collect(self, request: int, place: str, number: int) -> None:
        """Ask for the result everywhere but at first where it was accepted; then look again, or have it forgotten."""
        end_s = time.monotonic() + self._within_s
        while time.monotonic() < end_s:
            number += 1
            try:
                answer = await self._apis[number % len(self._apis)].get(place, timeout=5)
            except httpx.TransportError:
                self._history.saw(request, "broken")
            else:
                if answer.status_code not in (202, 503) and self._settled(request, answer):
                    return await self._look_again(request, place, number + 1)
            await asyncio.sleep(PAUSE_S)
        return None

    async def _look_again(self, request: int, place: str, number: int) -> None:
        """Look at a collected result once more, at another api, half the time after having it forgotten."""
        api = self._apis[number % len(self._apis)]
        try:
            if self._random.random() < 0.5:
                forgotten = await api.delete(place, timeout=5)
                if forgotten.status_code != 204:
                    return
                self._history.saw(request, "cancelled")
            answer = await self._apis[(number + 1) % len(self._apis)].get(place, timeout=5)
        except httpx.TransportError:
            return
        if answer.status_code == 200:
            self._write_answer(request, answer)

    def _settled(self, request: int, answer: httpx.Response) -> bool:
        """Write down a final answer; False where it is a refusal."""
        if answer.status_code == 200:
            self._write_answer(request, answer)
            self.answered += len(answer.json()["predictions"])
        elif answer.status_code == 404:
            self._history.saw(request, "gone")
        elif answer.status_code in (429, 503):
            self._history.saw(request, "refused", code=answer.json()["code"])
            return False
        else:
            self._history.saw(request, "failed", code=answer.json()["code"])
        return True

    def _write_answer(self, request: int, answer: httpx.Response) -> None:
        body = answer.json()
        self._history.saw(
            request,
            "answered",
            id=body["id"],
            predictions=body["predictions"],
            result=answer.headers["Server-Timing"],  # to the hundredth of a millisecond, so another for another run
        )
