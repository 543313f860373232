"""A model's process ends with its batcher, however that ends and whatever the model is doing."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.fleet import until
from tests.stack import ROOT, Stack, until_in_flight, until_ready
from tests.test_hanging import HANGS, ask, settings

HOLDS_PYTHONS_LOCK = "__import__('ctypes').PyDLL(None).sleep(60)"
BARE = """
import os, socket, sys, time
from models import parent
link = socket.socket(fileno=int(sys.argv[1]))
parent.watch(os.getppid(), link)
print("up", flush=True)
time.sleep(60)
"""
PARENT = """
import os, signal, socket, subprocess, sys
ours, its = socket.socketpair()
command = [sys.executable, "-c", sys.argv[1], str(its.fileno())]
child = subprocess.Popen(command, pass_fds=[its.fileno()], stdout=subprocess.PIPE)
its.close()
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.readline()
ours.close()
print("closed", flush=True)
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "hang",
    [
        HANGS,
        pytest.param(HOLDS_PYTHONS_LOCK, marks=pytest.mark.skipif(sys.platform != "linux", reason="of the kernel")),
    ],
    ids=["sleeps", "holds Python's lock"],
)
async def test_in_a_call_that_hangs_it_is_gone_a_second_after_its_batcher_was_killed(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path, hang: str
) -> None:
    stack.start_redis()
    batcher = stack.start_batcher(**settings(tmp_path, hang=hang, MODEL_TIMEOUT_S="30"))
    stack.start_api()
    await until_ready(client)
    (child,) = psutil.Process(batcher.pid).children()
    asking = asyncio.create_task(ask(client, 255))
    await until_in_flight(client, 1)
    await until_busy(batcher.pid)

    batcher.kill()
    batcher.wait()
    await until("the model's process is gone", lambda: is_gone(child), within_s=1.0)
    asking.cancel()


async def test_one_that_starts_after_its_batcher_was_killed_is_gone_too(stack: Stack, tmp_path: Path) -> None:
    stack.start_redis()
    batcher = stack.start_batcher(**settings(tmp_path, start="time.sleep(60)"))
    end_s = time.monotonic() + 10
    while not (children := psutil.Process(batcher.pid).children()):
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)

    batcher.kill()  # while it is being started: before or after it asked the kernel
    batcher.wait()

    await until("the model's process is gone", lambda: is_gone(children[0]), within_s=3.0)


async def test_where_no_kernel_does_it_a_thread_ends_it_once_the_parent_is_gone() -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220  # that takes a moment
        [sys.executable, "-c", PARENT, BARE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.stdin.write("close\n")
    parent.stdin.flush()
    assert parent.stdout.readline() == "closed\n"
    with pytest.raises(psutil.TimeoutExpired):
        child.wait(0.3)  # the parent lives: it waits for a model that is being closed

    parent.stdin.write("end\n")
    parent.stdin.flush()
    parent.wait(5)

    await until("the child is gone", lambda: is_gone(child), within_s=1.0)
    parent.stdin.close()
    parent.stdout.close()


def test_a_socket_that_is_read_meanwhile_loses_nothing() -> None:
    ours, its = socket.socketpair()
    code = BARE.replace("time.sleep(60)", "sys.stdout.buffer.write(link.recv(3)); sys.stdout.flush(); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(its.fileno())], cwd=ROOT, pass_fds=[its.fileno()], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        ours.send(b"abc")

        assert child.stdout.read(3) == b"abc"
        child.kill()
    ours.close()
    its.close()


async def is_gone(process: psutil.Process) -> bool:
    """Return whether it has ended; a zombie has, whose new parent has not looked yet."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until_busy(batcher: int) -> None:
    """Wait until the model has had its batch for a moment: nothing is sent or read any more."""
    (child,) = psutil.Process(batcher).children()
    before = -1.0
    end_s = time.monotonic() + 5
    while (now := sum(child.cpu_times()[:2])) != before:
        assert time.monotonic() < end_s
        before = now
        await asyncio.sleep(0.1)
