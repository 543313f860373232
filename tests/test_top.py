"""`python -m tools.top`: the queue in a terminal, seen as whoever watches it sees it."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Self

import httpx
import pytest
from rich.console import Console

from overview import Overview, WorkerNow
from tests.stack import PNG, ROOT, SEVEN, Stack, until_ready
from tools.board import board

TOP = [sys.executable, "-m", "tools.top"]
MODEL = {"MICROBATCH_MODEL": "simulated", "MICROBATCH_SIMULATED_BATCH_S": "0.2", "MICROBATCH_MAX_BATCH_SIZE": "4"}
ENDS = ("1", "2", "4", "8", "16", "24", "32", "48", "64", "96", "128", "256", "512", "1024", "inf")


@pytest.fixture(scope="module")
def slow_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Redis, an api, and a batcher that takes a fifth of a second for four images."""
    running = Stack(tmp_path_factory.mktemp("top"))
    running.start_redis()
    running.start_batcher(**MODEL)
    running.start_api()
    yield running
    running.kill()


@asynccontextmanager
async def loaded(stack: Stack, clients: int = 12) -> AsyncIterator[None]:
    """Keep so many clients asking."""

    async def ask(client: httpx.AsyncClient) -> None:
        while True:
            with suppress(httpx.TransportError):
                await client.post("/predict", content=SEVEN, headers=PNG)

    async with stack.client() as client:
        await until_ready(client)
        asking = [asyncio.create_task(ask(client)) for _ in range(clients)]
        yield
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


def once(stack: Stack, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [*TOP, "--once", *options]
    environment = stack.environment(**settings)
    return subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)


async def test_once_shows_the_queue_and_the_batchers_under_load(slow_stack: Stack) -> None:
    async with loaded(slow_stack):
        shown = await asyncio.to_thread(once, slow_stack)

    figures = dict(re.findall(r"([a-z][a-z0-9 /]*?) +([\d,.]+)", shown.stdout))
    (worker,) = re.findall(
        r"^\S+-\d+-\w{4} +busy +(\d+)% +([\d.]+) +([\d.]+) +2\d\d\.\d ms", shown.stdout, re.MULTILINE
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert int(figures["depth"]) > 4
    assert int(figures["in flight"]) >= 4
    assert 5 < int(figures["requests/s"]) < 40
    assert figures["dead letters"] == "0"
    assert int(worker[0]) > 50
    assert float(worker[2]) > float(worker[1]) > 1
    assert re.search(r"^ +1 +2 +4\s+\d+ +\d+ +[1-9]", shown.stdout, re.MULTILINE)
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())


def test_once_says_that_redis_is_away_and_exits_1(slow_stack: Stack) -> None:
    shown = once(slow_stack, REDIS_URL=f"unix://{slow_stack.folder}/nobody.sock")

    assert shown.returncode == 1
    assert "Redis is away" in shown.stdout
    assert shown.stderr == ""


def test_a_wrong_setting_or_interval_is_told_in_a_line(slow_stack: Stack) -> None:
    setting = once(slow_stack, MICROBATCH_WORKER_TIMEOUT_S="none")
    interval = once(slow_stack, "--interval", "0")

    assert setting.returncode == 1
    assert re.fullmatch(r"MICROBATCH_WORKER_TIMEOUT_S=.*\n", setting.stderr)
    assert interval.returncode == 2
    assert interval.stderr.splitlines()[-1].endswith("--interval: from 0.1 to 10")


class Terminal:
    """A terminal of 80 columns in which the command runs, and all that it has shown."""

    def __init__(self, stack: Stack) -> None:
        self._here, there = pty.openpty()
        termios.tcsetwinsize(there, (24, 80))
        environment = stack.environment(TERM="xterm-256color")
        self.process = subprocess.Popen(TOP, cwd=ROOT, env=environment, stdin=there, stdout=there, stderr=there)
        os.close(there)
        os.set_blocking(self._here, False)
        self.sent = b""

    def __enter__(self) -> Self:
        """Begin to watch."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the terminal away."""
        self.process.kill()
        self.process.wait()
        os.close(self._here)

    @property
    def shown(self) -> str:
        """What was sent, without colours and the like."""
        return re.sub(rb"\x1b\[[\d;?]*[a-zA-Z]", b"", self.sent).decode(errors="replace")

    def press(self, key: str) -> None:
        os.write(self._here, key.encode())

    async def until(self, pattern: str) -> None:
        """Wait until something is shown that was not shown before."""
        seen = len(self.shown)
        await self._read_until(lambda: re.search(pattern, self.shown[seen:]) is not None)

    async def end(self) -> int:
        """Wait for the end; return the exit code."""
        await self._read_until(lambda: self.process.poll() is not None)
        return self.process.wait()

    async def _read_until(self, is_so: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 15
        while not is_so():
            assert time.monotonic() < end_s, self.shown[-2000:]
            await asyncio.sleep(0.02)
            with suppress(BlockingIOError, OSError):  # nothing new, or nobody holds the other end any more
                self.sent += os.read(self._here, 65_536)


async def test_a_terminal_shows_changes_outlives_redis_and_ends_on_q(slow_stack: Stack) -> None:
    with Terminal(slow_stack) as terminal:
        async with loaded(slow_stack):
            await terminal.until(r"busy +[1-9]\d%")
            await terminal.until(r"[1-9]\d* batches in [1-9](?s:.)*dead letters(?s:.)*[1-9]\d* batches in [1-9]")

            slow_stack.processes[0].kill()
            await terminal.until("Redis is away")
            slow_stack.start_redis()
            await terminal.until("dead letters")
        terminal.press("x")
        terminal.press("q")

        assert await terminal.end() == 0
        assert "Traceback" not in terminal.shown
        assert b"\x1b[?1049l" in terminal.sent  # the screen as it was before


async def test_ctrl_c_ends_it_without_a_word(slow_stack: Stack) -> None:
    with Terminal(slow_stack) as terminal:
        await terminal.until("depth")
        terminal.process.send_signal(signal.SIGINT)  # as a terminal does

        assert await terminal.end() == 0
        assert "Traceback" not in terminal.shown


def test_the_largest_figures_fit_into_80_columns() -> None:
    # given
    worker = WorkerNow("batcher-7d9c5b6f4-x2x7k-1-a1b2", "breaker_open", 59.9, 12.34, 1.0, 1234.5, 12345.6, "digits")
    latest = Overview(
        time=0.0,
        depth=100_000,
        waiting=100_000,
        in_flight=32_768,
        oldest_s=299.99,
        dead=1000,
        in_progress=100_000,
        requests_per_s=12_345,
        images_per_s=123_456,
        errors_per_s=12_345.6,
        p50_s=29.99,
        p99_s=59.99,
        queue_p50_s=29.99,
        model_p50_s=19.99,
        batch_sizes={},
        workers=(worker,),
    )
    console = Console(width=80, file=(paper := io.StringIO()))

    # when
    console.print(board("default", latest, dict.fromkeys(ENDS, 99_999), span_s=10.0))
    text = paper.getvalue()

    # then
    for figure in ("100,000", "32,768", "299.99 s", "123,456", "12,345.6", "59.99 s", "19.99 s", "12.34 s", "59.9 s"):
        assert figure in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert text.count("…") == 1  # of the batcher's long name
