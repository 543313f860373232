"""Run one command and end it when the runner is gone: `python -m tools.guard [--grace-s 7] -- command ...`.

The guard's stdin is a pipe whose other end only the runner holds. However the runner ends, kill -9 included,
the kernel closes that end, and the guard reads the end of file: it ends the command, then itself.

It is to be started as the leader of a session of its own, which the command then shares. So a Ctrl-C in the
terminal reaches neither, and where the guard itself is killed, the runner, who sees that at once, still ends
the command by the number of the group (`KeptProcess` in tools/processes.py does). Only who kills both with -9
leaves the command running.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

NOT_FOUND = 127  # what a shell says of a command that it cannot start
KILLED = 128  # and adds to the number of the signal that ended one


def main() -> int:
    """Run the command and return its exit code; 128 + n where signal n ended it."""
    options = _options()
    wakeups = _wakeups()
    try:
        child = subprocess.Popen(options.command, stdin=subprocess.DEVNULL)  # noqa: S603 - its one duty
    except OSError as exc:
        sys.stderr.write(f"{options.command[0]}: {exc.strerror}\n")
        return NOT_FOUND
    _follow(child, wakeups, options.grace_s, options.remove)
    return child.returncode if child.returncode >= 0 else KILLED - child.returncode


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one command until it ends or stdin is closed.")
    parser.add_argument("--grace-s", type=float, default=7.0, help="time between SIGTERM and SIGKILL")
    parser.add_argument("--remove", type=Path, help="a directory to delete once stdin is closed")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def _wakeups() -> int:
    """Return a descriptor from which the numbers of arriving signals can be read."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # any handler: without one nothing is written to the pipe
    return read_end


def _follow(child: subprocess.Popen[bytes], wakeups: int, grace_s: float, remove: Path | None) -> None:
    """Pass SIGTERM on until the command has ended; end it once stdin is closed."""
    stdin = sys.stdin.fileno()
    while child.poll() is None:
        ready, _, _ = select.select([stdin, wakeups], [], [])
        if wakeups in ready and signal.SIGTERM in os.read(wakeups, 1024):
            child.terminate()
        if stdin in ready and not os.read(stdin, 1024):
            _end(child, grace_s, remove)


def _end(child: subprocess.Popen[bytes], grace_s: float, remove: Path | None) -> None:
    """End the command; where SIGTERM is not enough, with all that it has started, the guard included."""
    child.terminate()
    try:
        child.wait(grace_s)
        stubborn = False
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        stubborn = True
    if remove:
        shutil.rmtree(remove, ignore_errors=True)
    if stubborn and os.getpgrp() == os.getpid():  # never a group that somebody else leads
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
