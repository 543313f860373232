"""Real processes that a test has started, found again by a mark, and the runner among them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tools.processes import ROOT
from tools.service import free_port

MARK = "RUN_TEST_MARK"  # whose value, a directory of the test, is in the environment of all that it starts
REDIS = r"^\S*(redis|valkey)-server"
UP = "import signal, sys, time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    """Poll a state to a deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


def marked(mark: str) -> dict[int, str]:
    """Return the command of each living process that has the mark in its environment or its command.

    Redis writes its title over its environment, but the title names its socket, which is in the directory.
    """
    if Path("/proc/self/environ").exists():
        return dict(_marked_in_proc(mark.encode()))
    listing = subprocess.run(["/bin/ps", "-axEwwo", "pid=,command="], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=1) for line in listing.stdout.splitlines() if mark in line]
    return {int(pid): command for pid, command in lines}


def _marked_in_proc(mark: bytes) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            if mark in command or mark in (folder / "environ").read_bytes():
                yield int(folder.name), command.decode()
        except OSError:  # it has just ended, or is not ours
            continue


def find(mark: str, pattern: str) -> list[int]:
    """Return the processes of a mark whose command matches, guards left out unless asked for."""
    found = marked(mark).items()
    return [
        pid for pid, line in found if re.search(pattern, line) and ("guard" in pattern or "tools.guard" not in line)
    ]


def kill_marked(mark: str) -> None:
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def guard(mark: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tools.guard", *options, "--", *command],
        cwd=ROOT,
        env={**os.environ, MARK: mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


class Runner:
    """A running `python -m tools.run` and the lines that it has written."""

    def __init__(self, mark: str, *arguments: str, **env: str) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MICROBATCH_", "REDIS_URL"))}
        self.port = free_port()
        self.mark = mark
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.run", "--port", str(self.port), *arguments],
            cwd=ROOT,
            env={**clean, **env, MARK: mark, "TMPDIR": mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip())

    def says(self, pattern: str) -> bool:
        """Return whether a line matches."""
        return any(re.search(pattern, line) for line in self.lines)

    def wait(self, timeout_s: float = 15.0) -> int:
        """Return its exit code once it has ended."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code
