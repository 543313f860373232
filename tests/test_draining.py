"""A server that stops answers all who have a connection to it, however it listens."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from draining import FIRST_REQUEST_S, IDLE_S
from tests.stopping import GET, LOOPS, Stopping, first_answer, is_last_answer, play, received

WAITING = 50
STOP_S = 0.4
"""What uvicorn takes to stop by itself, and more."""


async def who_waits_is_answered(stopping: Stopping) -> None:
    clients = [stopping.connect(GET) for _ in range(WAITING)]

    await stopping.stop()

    assert [is_last_answer(received(client)) for client in clients] == [True] * WAITING
    assert stopping.begun == 1
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        stopping.connect()


@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("loop", LOOPS)
def test_connections_that_wait_to_be_accepted_are_answered(loop: str, http: str) -> None:
    play(loop, who_waits_is_answered, http=http)


@pytest.mark.parametrize("loop", LOOPS)
def test_so_are_those_at_a_unix_socket(loop: str, tmp_path: Path) -> None:
    play(loop, who_waits_is_answered, uds=str(tmp_path / "api.sock"))


@pytest.mark.parametrize("loop", LOOPS)
def test_so_are_those_at_a_socket_that_was_handed_over(loop: str) -> None:
    play(loop, who_waits_is_answered, sockets=[socket.create_server(("127.0.0.1", 0))])


@pytest.mark.parametrize("loop", LOOPS)
def test_so_are_those_at_an_inherited_file_descriptor_which_is_closed(loop: str) -> None:
    file = socket.create_server(("127.0.0.1", 0)).detach()

    play(loop, who_waits_is_answered, fd=file)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_that_arrives_on_an_idle_connection_is_answered(loop: str) -> None:
    async def scenario(stopping: Stopping) -> None:
        client = stopping.connect(GET)
        first = await first_answer(client)
        client.sendall(GET)

        await stopping.stop()

        assert first.startswith(b"HTTP/1.1 200")
        assert b"connection: close" not in first.lower()
        assert is_last_answer(received(client))

    play(loop, scenario)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_was_just_made_may_speak_after_the_listener_is_closed(loop: str) -> None:
    async def scenario(stopping: Stopping) -> None:
        client = stopping.connect()
        ending = asyncio.create_task(stopping.stop())
        await stopping.until_closing()
        client.sendall(GET)
        await ending

        assert is_last_answer(received(client))

    play(loop, scenario)


def test_connections_that_stay_silent_are_closed_in_time() -> None:
    async def scenario(stopping: Stopping) -> None:
        silent, half, kept = stopping.connect(), stopping.connect(GET[:10]), stopping.connect(GET)
        await first_answer(kept)

        took_s = await stopping.stop()

        assert [received(client) for client in (silent, half, kept)] == [b""] * 3
        assert FIRST_REQUEST_S < took_s < FIRST_REQUEST_S + STOP_S

    play("uvloop", scenario)


def test_idle_connections_delay_the_stop_less() -> None:
    async def scenario(stopping: Stopping) -> None:
        kept = stopping.connect(GET)
        await first_answer(kept)

        took_s = await stopping.stop()

        assert received(kept) == b""
        assert IDLE_S < took_s < IDLE_S + STOP_S

    play("uvloop", scenario)
