"""What the runner keeps running: started again when it ends, stopped in order."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loop import HUNG
from tests.marked import MARK, STUBBORN, UP, find, marked, until
from tools.processes import KeptProcess, ending, stop_in_order


@pytest.fixture
def kept(mark: str) -> Iterator[Callable[[str], KeptProcess]]:
    """Keep Python programs running until the test ends."""
    processes: list[KeptProcess] = []

    def start(program: str) -> KeptProcess:
        command = [sys.executable, "-c", program]
        processes.append(KeptProcess("program", command, env={**os.environ, MARK: mark}, grace_s=1))
        processes[-1].start()
        return processes[-1]

    yield start
    stop_in_order([processes], 0)


def test_a_command_whose_guard_is_killed_is_not_left_beside_its_successor(
    kept: Callable[[str], KeptProcess], mark: str
) -> None:
    kept(STUBBORN)
    until(lambda: bool(find(mark, "SIG_IGN")))
    first, first_guard = find(mark, "SIG_IGN"), find(mark, "tools.guard")

    os.kill(first_guard[0], signal.SIGKILL)
    until(lambda: find(mark, "SIG_IGN") not in ([], first))

    assert not set(first) & set(marked(mark))


def test_the_pause_before_a_restart_doubles(
    kept: Callable[[str], KeptProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    said = ""

    def restarted_twice() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return said.count("starting it again") == 2

    kept("import sys; print('my last words'); sys.exit(9)")
    until(restarted_twice)

    assert "program   | my last words\n" in said
    assert "program ended (exit code 9); starting it again in 0.5 s\n" in said
    assert "program ended (exit code 9); starting it again in 1 s\n" in said


def test_what_cannot_be_started_is_tried_again(
    kept: Callable[[str], KeptProcess], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], mark: str
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")  # as when the .venv is deleted under the runner
    process = kept(UP)
    until(lambda: "program ended (cannot be started: No such file or directory)" in capfd.readouterr().err)

    assert not process.join(0)
    assert not marked(mark)


def shown(capsys: pytest.CaptureFixture[str], text: str, times: int = 1) -> None:
    """Wait until the kept processes have written a text so often: their signal handlers are set before."""
    said = ""

    def enough() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return said.count(text) >= times

    until(enough)


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(
    kept: Callable[[str], KeptProcess], mark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    process = kept(STUBBORN)
    shown(capsys, "| up")

    clean = stop_in_order([[process]], 0.3)

    assert not clean
    until(lambda: not marked(mark))


def test_stages_are_stopped_one_after_the_other(tmp_path: Path, mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "order"

    def process(name: str) -> KeptProcess:
        leave = f"time.sleep(0.2), open({str(log)!r}, 'a').write({name!r}), sys.exit()"
        program = f"import signal, sys, time; signal.signal(15, lambda *_: ({leave})); print('up'); time.sleep(60)"
        command = [sys.executable, "-u", "-c", program]
        return KeptProcess(name, command, env={**os.environ, MARK: mark}, grace_s=1)

    stages = [[process("a")], [process("b")], [process("c")]]
    for stage in stages:
        stage[0].start()
    shown(capsys, "| up", times=3)

    assert stop_in_order(stages, 5)
    assert log.read_text() == "abc"


def test_an_ending_names_the_signal() -> None:
    assert ending(128 + signal.SIGKILL) == "killed by SIGKILL"
    assert ending(-signal.SIGKILL) == "killed by SIGKILL"
    assert ending(1) == "exit code 1"


def test_a_batcher_that_left_because_its_model_hung_is_started_again_as_soon_each_time(
    kept: Callable[[str], KeptProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    said = ""

    def restarted_twice() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return said.count("starting it again") == 2

    kept(f"import sys; sys.exit({HUNG})")
    until(restarted_twice)

    assert said.count(f"program ended (exit code {HUNG}); starting it again in 0.5 s\n") == 2
