"""The processes that are measured: the service, and the floor of what FastAPI costs, each on a port of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from config import PREFIX
from errors import StartError
from tools.local_redis import find_redis, private_directory, redis_command, socket_path, wait_until_up
from tools.service import free_port

ROOT = Path(__file__).resolve().parent.parent
READY_S = 60.0
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""So that a model takes one core a batcher, as the bare loop does."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers POST /predict, and all its processes."""

    name: str
    url: str
    processes: Mapping[str, subprocess.Popen[bytes]]

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that each of its processes, with its children, has taken."""
        return {name: _cpu_s(psutil.Process(process.pid)) for name, process in self.processes.items()}

    def resident_bytes(self) -> dict[str, int]:
        """Return the memory that each of its processes holds."""
        return {name: psutil.Process(process.pid).memory_info().rss for name, process in self.processes.items()}


@contextmanager
def service(settings: Mapping[str, str], *, batchers: int = 1, workers: int = 1) -> Iterator[Target]:
    """Run the service, as `make run` does but without guards; come back when all batchers are there."""
    with private_directory() as folder, _Started() as started:
        started.start("redis", redis_command(find_redis(), folder), {})
        wait_until_up(folder)
        environment = {"REDIS_URL": f"unix://{socket_path(folder)}"} | ONE_THREAD
        environment |= {PREFIX + key: value for key, value in ({"LOG_LEVEL": "warning"} | dict(settings)).items()}
        for number in range(batchers):
            started.start(f"batcher {number + 1}", [sys.executable, "batcher.py"], environment)
        url = started.start_web("api", "api:app", workers, environment)
        _wait(url + "/health/ready", f'"workers":{batchers}')
        yield Target("ours", url, started.processes)


@contextmanager
def floor(*, workers: int = 1) -> Iterator[Target]:
    """Run the least that a FastAPI service costs, with the flags and the garbage collection of ours."""
    with _Started() as started:
        url = started.start_web("api", "bench.floor:app", workers, {})
        _wait(url + "/openapi.json", "")
        yield Target("floor", url, started.processes)


class _Started:
    """Processes that end with their context."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        for process in reversed(self.processes.values()):  # Redis last, so that nobody misses it
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        self.processes[name] = subprocess.Popen(command, cwd=ROOT, env=inherited | dict(environment))  # noqa: S603  # our own

    def start_web(self, name: str, app: str, workers: int, environment: Mapping[str, str]) -> str:
        port = free_port()
        flags = ["--port", str(port), "--workers", str(workers), "--no-access-log", "--log-level", "warning"]
        self.start(name, [sys.executable, "-m", "uvicorn", app, *flags], environment)
        return f"http://127.0.0.1:{port}"


def _cpu_s(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def _wait(url: str, text: str) -> None:
    """Wait until an address answers 200 with this text in it."""
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s:
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310  # our own, on 127.0.0.1
                if text in answer.read().decode():
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise StartError(f"{url} was not ready in {READY_S:g} s")
