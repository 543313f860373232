"""A peer's processes: started, waited for, and stood still while ours is measured."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bench.parts import ONE_THREAD, ROOT, Started, Target, tree
from bench.peers.catalogue import FREE_PORT, Peer
from bench.peers.checking import answers
from bench.peers.environments import FOLDER, SkippedPeerError
from bench.peers.work import Options
from bench.workloads import Workload
from tools.local_redis import find_redis, private_directory, redis_command, wait_until_up
from tools.service import free_port

READY_S = 60.0
SETTLE_S = 0.3
"""After a pause: what came due meanwhile, as timers and beats do, is over before the peer is measured."""


@contextmanager
def running(peer: Peer, python: Path, work: Workload, options: Options) -> Iterator[Target]:
    """Run a peer on a free port of 127.0.0.1; come back once it answers.

    Raises SkippedPeerError where it does not.
    """
    log = FOLDER / f"{peer.key}.log"
    with private_directory() as folder, Started() as started, log.open("wb") as output:
        redis = ""
        if peer.needs_redis:
            port = free_port()
            command = [*redis_command(find_redis(), folder), "--bind", "127.0.0.1", "--port", str(port)]
            started.start("redis", command, {})
            wait_until_up(folder)
            redis = f"127.0.0.1:{port}"
        port = free_port()
        told = Options(options.workload, port, options.batch, options.workers, redis).environment()
        environment = {"PYTHONPATH": str(ROOT)} | ONE_THREAD | _filled(peer) | told
        command = [str(python), "-m", f"bench.peers.{peer.key}_server"]
        server = started.start(peer.key, command, environment, log=output)
        target = Target(f"{peer.name} {peer.version}", f"http://127.0.0.1:{port}", started.processes)
        end_s = time.monotonic() + READY_S
        while not answers(target.url, work):
            if server.poll() is not None or time.monotonic() > end_s:
                raise SkippedPeerError(f"did not start: {_last_line(log)}")
            time.sleep(0.1)
        yield target


@contextmanager
def paused(peer: Peer, target: Target) -> Iterator[None]:
    """Let its processes stand still: some poll without pause, which ours beside it would pay for."""
    if not peer.may_pause:
        yield
        return
    processes = [each for process in target.processes.values() for each in tree(psutil.Process(process.pid))]
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        time.sleep(SETTLE_S)


def _filled(peer: Peer) -> dict[str, str]:
    return {key: str(free_port()) if value == FREE_PORT else value for key, value in peer.environment.items()}


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
