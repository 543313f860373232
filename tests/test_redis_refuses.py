"""A Redis that answers, but refuses: a fail-over, rights that are taken away, a full disk. All of it passes."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httpx
import pytest
from redis.asyncio import Redis

from tests.stack import Stack, until_ready
from tests.test_redis_faults import MODEL, ask, until


@dataclass
class Scene:
    """An api, two batchers, and a connection to their Redis that may do anything."""

    stack: Stack
    client: httpx.AsyncClient
    redis: Redis
    batchers: list[subprocess.Popen[bytes]]
    api: subprocess.Popen[bytes]

    def warnings(self) -> dict[int, int]:
        """Return the most warnings of one kind that each process wrote within one second, by its pid."""
        found = {}
        for process in (*self.batchers, self.api):
            seconds: dict[tuple[str, str], int] = {}
            for line in self.stack.log_of(process):
                entry = json.loads(line)
                if entry["level"] == "warning" and "Redis" in entry["event"]:
                    key = entry["event"], entry["time"][:19]
                    seconds[key] = seconds.get(key, 0) + 1
            found[process.pid] = max(seconds.values(), default=0)
        return found

    def words(self, process: subprocess.Popen[bytes]) -> str:
        """Return the reasons that a process gave for waiting."""
        return " ".join(json.loads(line).get("reason", "") for line in self.stack.log_of(process))

    async def is_refused_at_once(self) -> bool:
        began_s = time.monotonic()
        answers = await asyncio.gather(*(ask(self.client, number) for number in range(16)))
        return {answer.status_code for answer in answers} == {503} and time.monotonic() - began_s < 0.5

    async def has_told(self, word: str) -> bool:
        return all(word in self.words(batcher) for batcher in self.batchers)

    async def is_not_ready(self) -> bool:
        return (await self.client.get("/health/ready")).status_code == 503

    async def serves(self) -> bool:
        return (await ask(self.client, 5)).status_code == 200


@pytest.fixture
async def scene(stack: Stack, client: httpx.AsyncClient) -> AsyncIterator[Scene]:
    stack.logged = True
    disk = stack.folder / "disk"
    disk.mkdir()
    stack.start_redis("--dir", str(disk), "--save", "3600 1000000", "--enable-protected-configs", "yes")
    batchers = [stack.start_batcher(**MODEL) for _ in range(2)]
    api = stack.start_api()
    await until_ready(client)
    redis = Redis(unix_socket_path=str(stack.folder / "redis.sock"))
    assert (await ask(client, 1)).status_code == 200
    yield Scene(stack, client, redis, batchers, api)
    await redis.aclose()


async def look_after(scene: Scene) -> None:
    """Look whether all went on as if nothing had been, and whether that was not told too often."""
    assert await until(scene.serves, 5) < 1.5
    assert [process.poll() for process in (*scene.batchers, scene.api)] == [None] * 3
    assert max(scene.warnings().values()) == 1
    served = await asyncio.gather(*(ask(scene.client, number) for number in range(50)))
    assert {answer.status_code for answer in served} == {200}


async def test_a_planned_fail_over_ends_no_batcher(scene: Scene) -> None:
    waiting = [asyncio.create_task(ask(scene.client, number)) for number in range(40)]
    await scene.redis.replicaof("127.0.0.1", 1)
    await until(scene.is_not_ready, 2)
    refused = await scene.is_refused_at_once()
    await asyncio.sleep(2.2)  # so long it lasts: warnings are counted by the second
    assert await scene.has_told("READONLY")
    await scene.redis.replicaof("NO", "ONE")
    answers = await asyncio.gather(*waiting)

    await look_after(scene)
    assert refused
    assert {answer.status_code for answer in answers} <= {200, 503}


@pytest.mark.parametrize(
    ("taken", "given", "word"),
    [
        pytest.param(("default", "-@scripting"), ("default", "+@all"), "NOPERM", id="rights"),
        pytest.param(("default", "resetpass", ">secret"), ("default", "nopass"), "uthentication", id="password"),
    ],
)
async def test_rights_that_are_taken_away_for_a_while_end_no_batcher(
    scene: Scene, taken: tuple[str, ...], given: tuple[str, ...], word: str
) -> None:
    call: Callable[..., object] = scene.redis.execute_command
    await call("ACL", "SETUSER", *taken)  # type: ignore[misc]
    await scene.redis.client_kill_filter(_type="normal", skipme=True)  # who is connected has logged in already
    await until(scene.is_not_ready, 3)
    refused = await scene.is_refused_at_once()
    await until(lambda: scene.has_told(word), 5)
    await call("ACL", "SETUSER", *given)  # type: ignore[misc]

    await look_after(scene)
    assert refused


async def test_a_redis_that_cannot_write_to_its_disk_is_refused_at_once_and_not_ready(scene: Scene) -> None:
    shutil.rmtree(scene.stack.folder / "disk")
    await scene.redis.bgsave()

    async def refuses_writes() -> bool:
        info = await scene.redis.info("persistence")
        return bool(info["rdb_last_bgsave_status"] == "err")

    await until(refuses_writes, 5)
    await until(scene.is_not_ready, 2)
    refused = await scene.is_refused_at_once()
    answer = await ask(scene.client, 1)
    await until(lambda: scene.has_told("MISCONF"), 5)
    await scene.redis.config_set("dir", str(scene.stack.folder))
    await scene.redis.bgsave()

    await look_after(scene)
    assert refused
    assert answer.json()["detail"] == "Redis is not ready; try again shortly"
