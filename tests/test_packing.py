"""Commands with long arguments go to Redis byte for byte as the client library writes them, but uncopied."""

from __future__ import annotations

from typing import Any

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from records import Job
from wire import Pieces, packed

SHORT = st.binary(max_size=40) | st.text(max_size=10) | st.integers() | st.floats(allow_nan=False)
PIECES = st.lists(st.binary(max_size=40), max_size=3).map(Pieces)
COMMANDS = st.lists(st.lists(SHORT | PIECES, min_size=1, max_size=8).map(tuple), min_size=1, max_size=4)


def whole(argument: Any) -> Any:
    return b"".join(argument) if isinstance(argument, Pieces) else argument


@given(COMMANDS)
def test_any_commands_are_framed_as_the_client_library_frames_them(commands: list[tuple[Any, ...]]) -> None:
    expected = b"".join(hiredis.pack_command(tuple(map(whole, command))) for command in commands)

    assert b"".join(packed(commands)) == expected


def test_a_long_payload_is_not_copied() -> None:
    image = bytes(100_000)
    job = Job("uuid", b"start", image)

    sent = packed([("HSET", "key", job.uuid, Pieces((job.start, job.rest)))])

    assert any(piece is image for piece in sent)
    assert job.payload == b"start" + image
    assert job.size_bytes == len(job.payload)
