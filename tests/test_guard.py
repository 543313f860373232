"""The guard: a command ends with whoever started it, whatever it does."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.marked import STUBBORN, UP, guard, marked, until


def test_the_command_ends_when_the_pipe_closes(mark: str) -> None:
    guarded = guard(mark, sys.executable, "-c", UP)
    assert guarded.stdout
    assert guarded.stdout.readline() == b"up\n"

    guarded.communicate(timeout=10)  # closes the pipe

    assert guarded.returncode == 128 + signal.SIGTERM
    assert not marked(mark)


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace_with_what_it_started(mark: str) -> None:
    starts_another = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {UP!r}]); {STUBBORN}"
    guarded = guard(mark, sys.executable, "-c", starts_another, options=("--grace-s", "0.2"))
    assert guarded.stdout
    assert [guarded.stdout.readline(), guarded.stdout.readline()] == [b"up\n", b"up\n"]

    guarded.communicate(timeout=10)

    until(lambda: not marked(mark))


def test_a_directory_is_deleted_when_the_pipe_closes(mark: str, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    guarded = guard(mark, sys.executable, "-c", UP, options=("--remove", str(private)))

    guarded.communicate(timeout=10)

    assert not private.exists()


@pytest.mark.parametrize(("code", "expected"), [("sys.exit(3)", 3), ("os.abort()", 134), ("pass", 0)])
def test_the_exit_code_of_the_command_is_the_guards(mark: str, code: str, expected: int) -> None:
    guarded = guard(mark, sys.executable, "-c", f"import os, resource, sys; {code}")

    assert guarded.wait(10) == expected
    guarded.communicate()


def test_a_command_that_cannot_be_started_is_127(mark: str) -> None:
    guarded = guard(mark, "/no/such/command")

    assert guarded.wait(10) == 127
    guarded.communicate()


def test_sigterm_reaches_the_command(mark: str) -> None:
    polite = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(5)); print('up', flush=True); time.sleep(60)"
    )
    guarded = guard(mark, sys.executable, "-c", polite)
    assert guarded.stdout
    guarded.stdout.readline()

    guarded.terminate()

    assert guarded.wait(10) == 5
    guarded.communicate()
