"""The processes that are measured: the service, and the floor of what FastAPI costs, each on a port of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import psutil

from config import PREFIX
from errors import StartError
from tools.local_redis import find_redis, private_directory, redis_command, socket_path, wait_until_up
from tools.service import decode_threads, free_port

ROOT = Path(__file__).resolve().parent.parent
READY_S = 60.0
LEFT_S = 2.0
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""So that a model takes one core a batcher, as the bare loop does."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers POSTs, and all its processes."""

    name: str
    url: str
    processes: Mapping[str, subprocess.Popen[bytes]]

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that each of its processes has taken, with all that those have started."""
        return {name: _cpu_s(psutil.Process(process.pid)) for name, process in self.processes.items()}


@contextmanager
def service(settings: Mapping[str, str], *, batchers: int = 1, api_workers: int = 1) -> Iterator[Target]:
    """Run the service, as `make run` does but without guards; come back when all batchers are there."""
    with private_directory() as folder, Started() as started:
        started.start("redis", redis_command(find_redis(), folder), {})
        wait_until_up(folder)
        environment = {"REDIS_URL": f"unix://{socket_path(folder)}"} | ONE_THREAD
        environment |= {PREFIX + key: value for key, value in ({"LOG_LEVEL": "warning"} | dict(settings)).items()}
        share = {PREFIX + "DECODE_THREADS": str(decode_threads(batchers))}
        for number in range(batchers):
            started.start(f"batcher {number + 1}", [sys.executable, "batcher.py"], share | environment)
        url = started.start_web("api", "api:app", environment, workers=api_workers)
        _wait(url + "/health/ready", f'"workers":{batchers}')
        yield Target("ours", url, started.processes)


@contextmanager
def floor() -> Iterator[Target]:
    """Run the least that a FastAPI service costs, with the flags and the garbage collection of ours."""
    with Started() as started:
        url = started.start_web("api", "bench.floor:app", {})
        _wait(url + "/openapi.json", "")
        yield Target("floor", url, started.processes)


class Started:
    """Processes that end with their context."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        """Start with none."""
        return self

    def __exit__(self, *_raised: object) -> None:
        """End all."""
        for process in reversed(self.processes.values()):  # Redis last, so that nobody misses it
            _end(process)

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, log: BinaryIO | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one; log: where its output goes, instead of to ours."""
        self.processes[name] = process = subprocess.Popen(  # noqa: S603  # our own
            command, cwd=ROOT, env={**inherited(), **environment}, stdout=log, stderr=log
        )
        return process

    def start_web(self, name: str, app: str, environment: Mapping[str, str], *, workers: int = 1) -> str:
        """Start an ASGI application on a port of its own; return its address."""
        port = free_port()
        flags = ["--port", str(port), "--no-access-log", "--log-level", "warning", "--workers", str(workers)]
        self.start(name, [sys.executable, "-m", "uvicorn", app, *flags], environment)
        return f"http://127.0.0.1:{port}"


def inherited() -> dict[str, str]:
    """Return this process's environment without settings of the service that happen to be set here."""
    return {key: value for key, value in os.environ.items() if not key.upper().startswith(PREFIX)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process; then whatever it has started and left behind, which would go on taking processor time."""
    below = tree(psutil.Process(process.pid))[1:] if process.poll() is None else []
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _gone, left = psutil.wait_procs(below, LEFT_S)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, LEFT_S)


def tree(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all below it; empty where it is gone."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_s(top: psutil.Process) -> float:
    total_s = 0.0
    for process in tree(top):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += times.user + times.system
            # Of children that it has waited for: on Linux alone, and without it their time would be taken back.
            total_s += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total_s


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
