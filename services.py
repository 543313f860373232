"""One api process: a Service for each of its models, and what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from uuid import uuid4

from budget import ByteBudget
from config import Settings
from decoding import Threads
from errors import ModelNotFound, RedisAway, Unavailable
from readiness import RETRY_AFTER_S
from service import Service
from tracing import OpenTracing

PREDICT = "/predict"
FIRST_LOOK_S = 0.5


class Services:
    """The models of a process, by name, the default one first.

    at: the one that answers at a path. served: the one that the fronts of other servers have under a name.
    open_tracing: see tracing.load_tracing; None: traces are off.
    """

    def __init__(self, models: Mapping[str, Settings], open_tracing: OpenTracing | None = None) -> None:
        self.tracing = open_tracing("api", uuid4().hex[:12], "") if open_tracing else None
        of_the_process = next(iter(models.values()))
        budget = ByteBudget(of_the_process.max_held_bytes)
        self._threads = Threads(of_the_process.decode_threads, budget.room)
        self.by_name = {
            name: Service(settings, budget=budget.part(), threads=self._threads, tracing=self.tracing)
            for name, settings in models.items()
        }
        self.default = next(iter(self.by_name.values()))
        self.at = {PREDICT: self.default} | {f"{PREDICT}/{name}": one for name, one in self.by_name.items()}
        self.served = {one.settings.served_name: one for one in self}

    def __iter__(self) -> Iterator[Service]:
        """Go through all of them."""
        return iter(self.by_name.values())

    def named(self, name: str) -> Service:
        """Return the one of this name.

        Raises ModelNotFound.
        """
        found = self.by_name.get(name)
        if found is None:
            raise ModelNotFound(f"there is no model {name[:80]} here, only {', '.join(self.by_name)}")
        return found

    async def look(self) -> None:
        """Look once at each queue, but not for long; before that all requests would be refused."""
        with suppress(TimeoutError, RedisAway):
            async with asyncio.timeout(FIRST_LOOK_S):
                for one in self:
                    await one.readiness.look()

    async def run(self) -> None:
        """Watch Redis and listen for results, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for one in self:
                tasks.create_task(one.run())

    async def close(self) -> None:
        """Send what is still to be sent, and give back threads and connections."""
        self._threads.close()
        for one in self:
            await one.close()
        if self.tracing is not None:
            self.tracing.close()

    async def refresh(self) -> None:
        """Look at each queue again, unless that has just been done: for who asks whether this process is ready."""
        await asyncio.gather(*(one.readiness.refresh() for one in self))

    def stop_being_ready(self) -> None:
        """Say of all models that requests should go elsewhere; those that come are served still."""
        for one in self:
            one.readiness.stopping = True

    def require_models(self) -> None:
        """Look whether a request to any model would be answered soon.

        Raises Unavailable saying what is missing, and which models lack it where there are several.
        """
        missing: dict[str, list[str]] = {}
        for name, one in self.by_name.items():
            try:
                one.readiness.require_model()
            except Unavailable as exc:
                missing.setdefault(exc.message, []).append(name)
        if missing:
            several = len(self.by_name) > 1
            parts = [f"{', '.join(names)}: {message}" if several else message for message, names in missing.items()]
            raise Unavailable("; ".join(parts), retry_after_s=RETRY_AFTER_S)
