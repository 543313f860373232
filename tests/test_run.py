"""The local runner with real processes: what dies is started again, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from errors import StartError
from tests.marked import MARK, REDIS, Runner, find, marked, until
from tools.processes import ROOT
from tools.service import check_port, free_port


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


@pytest.mark.parametrize(("settings", "threads"), [({}, "1"), ({"MICROBATCH_DECODE_THREADS": "3"}, "3")])
def test_batchers_share_the_cores_unless_told_otherwise(
    run: Callable[..., Runner], settings: dict[str, str], threads: str
) -> None:
    runner = run("--batchers", str(os.cpu_count()), **settings)
    until(lambda: runner.says("^ready:"))
    batchers = [psutil.Process(pid).environ() for pid in find(runner.mark, r"\S+ batcher\.py")]

    assert [one.get("MICROBATCH_DECODE_THREADS") for one in batchers] == [threads] * (os.cpu_count() or 1)


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


@pytest.mark.long
def test_an_api_has_its_delay_to_stop(run: Callable[..., Runner]) -> None:
    delay_s = 3.0  # longer than what it may take beyond its grace
    runner = run(MICROBATCH_DRAIN_DELAY_S=str(delay_s), MICROBATCH_SHUTDOWN_GRACE_S="0")
    until(lambda: runner.says("^ready:"))

    told_s = time.monotonic()
    runner.process.terminate()

    assert runner.wait() == 0
    assert time.monotonic() - told_s > delay_s
    assert not runner.says("is killed")


def test_several_models_have_batchers_of_their_own_and_their_paths_are_said(run: Callable[..., Runner]) -> None:
    runner = run("--batchers", "2", MICROBATCH_MODELS="digits,sums", MICROBATCH_SUMS__MODEL="simulated")
    until(lambda: runner.says("^ready:"))

    assert [len(find(runner.mark, rf"batcher\.py {model}\b")) for model in ("digits", "sums")] == [2, 2]
    assert all(runner.says(rf"^model: +http\S+:{runner.port}/predict/{model}$") for model in ("digits", "sums"))
    until(lambda: runner.says(r"^batcher-sums-2 +\| "))


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
