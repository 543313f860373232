"""Several apis and batchers around one Redis that are killed, stopped and started again, and what they leave there."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import httpx
import pytest
from redis.asyncio import Redis

from jobs import JobQueue
from tests.stack import Stack, until_ready

KEY = "{mb:default}:"
LIMITS = httpx.Limits(max_connections=1000, keepalive_expiry=2)
"""Idle connections are given up before uvicorn does, at five seconds: it may close one that is just used again."""
ALWAYS = {KEY + name for name in ("stats", "workers", "idle", "totals", "apis")}


class Fleet:
    """Members are called api-0, api-1, batcher-0 and so on; a member that is started again keeps its name and place."""

    def __init__(self, stack: Stack, *, apis: int, batchers: int, **settings: str) -> None:
        self._stack = stack
        self._settings = {f"MICROBATCH_{name}": value for name, value in settings.items()}
        self.apis = [f"api-{number}" for number in range(apis)]
        self.batchers = [f"batcher-{number}" for number in range(batchers)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.clients: list[httpx.AsyncClient] = []

    async def __aenter__(self) -> Self:
        """Start Redis and all members; come back when every api is ready and every batcher idle."""
        self._stack.start_redis()
        self._url = f"unix://{self._stack.folder}/redis.sock"
        self.redis = Redis.from_url(self._url)
        for name in [*self.batchers, *self.apis]:
            self.start(name)
        self.clients = [self._client(name) for name in self.apis]
        for client in self.clients:
            await until_ready(client)
        await until("all batchers are idle", self.all_idle)
        return self

    async def __aexit__(self, *_raised: object) -> None:
        """Close what is connected here; the stack ends the processes."""
        for client in self.clients:
            await client.aclose()
        await self.redis.aclose()

    def start(self, name: str) -> None:
        program = ["batcher.py"]
        if name in self.apis:
            program = ["-m", "uvicorn", "api:app", "--uds", self.socket(name), "--no-access-log"]
        self.processes[name] = self._stack.start(sys.executable, *program, **self._settings)

    def kill(self, name: str) -> None:
        """Kill -9, whether it runs or is stopped."""
        self.processes[name].kill()
        self.processes[name].wait()

    async def leave(self, name: str) -> None:
        """Have a member finish and sign off."""
        self.processes[name].terminate()
        await asyncio.to_thread(self.processes[name].wait)

    def stop(self, name: str) -> Callable[[], None]:
        """Stop a member; return what continues it, unless it was killed meanwhile."""
        stopped = self.processes[name]
        stopped.send_signal(signal.SIGSTOP)
        return lambda: stopped.send_signal(signal.SIGCONT)

    def socket(self, api: str) -> str:
        return f"{self._stack.folder}/{api}.sock"

    async def holders(self) -> list[str]:
        """Return the batchers that have been given jobs, while there are leases."""
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.zcard(KEY + "leases")
        pipeline.zrange(KEY + "idle", 0, -1)
        leases, idle = await pipeline.execute()
        idle_pids = {_pid(worker) for worker in idle}
        return [name for name in self.batchers if leases and self.processes[name].pid not in idle_pids]

    async def all_idle(self) -> bool:
        idle_pids = {_pid(worker) for worker in await self._call("ZRANGE", KEY + "idle", 0, -1)}
        return idle_pids >= {self.processes[name].pid for name in self.batchers}

    async def leases(self) -> int:
        return int(await self._call("ZCARD", KEY + "leases"))

    async def no_lease_runs(self) -> bool:
        seconds, microseconds = await self._call("TIME")
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        return not await self._call("ZCOUNT", KEY + "leases", f"({now_ms}", "+inf")

    async def depth(self) -> int:
        return int(await self._call("ZCARD", KEY + "deadlines"))

    async def counter(self, name: str) -> int:
        return int(await self._call("HGET", KEY + "stats", name) or 0)

    async def audit(self) -> list[str]:
        """Return what is wrong in Redis, by the queue's own invariant."""
        queue = JobQueue(self._url, name="default", timeout_s=10)
        try:
            return await queue.audit()
        finally:
            await queue.close()

    async def remains(self, *, results_too: bool = False) -> list[str]:
        """Return the keys that a service without work does not have, but for those that end by themselves.

        `:results` may name results that are still there, or whose time is over: the next submit sweeps them.
        results_too: results that nobody collected count as well.
        """
        keys = {key.decode() for key in await self._call("KEYS", KEY + "*")}
        found = sorted(keys - ALWAYS)
        strays = [] if results_too else await self._stray_results()
        return [key for key in found if await self._stays(key, results_too=results_too)] + strays

    async def _stays(self, key: str, *, results_too: bool) -> bool:
        if key == KEY + "results" or key.startswith(KEY + "result:"):
            return results_too
        return int(await self._call("PTTL", key)) == -1

    async def _stray_results(self) -> list[str]:
        seconds, _ = await self._call("TIME")
        listed = await self._call("ZRANGE", KEY + "results", f"({int(seconds) * 1000 + 1000}", "+inf", "BYSCORE")
        return [one.decode() for one in listed if not await self._call("EXISTS", f"{KEY}result:{one.decode()}")]

    async def _call(self, *command: Any) -> Any:
        return await self.redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's own

    def _client(self, api: str) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=self.socket(api), limits=LIMITS)
        return httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60)


async def until(what: str, is_so: Callable[[], Awaitable[bool]], *, within_s: float = 30.0) -> None:
    """Wait for a state, looking again and again."""
    end_s = time.monotonic() + within_s
    while not await is_so():
        if time.monotonic() > end_s:
            pytest.fail(f"not in {within_s} s: {what}")
        await asyncio.sleep(0.01)


def _pid(worker: bytes) -> int:
    """Return the process id in a worker's id: host, process, four random digits."""
    return int(worker.decode().rsplit("-", 2)[1])
