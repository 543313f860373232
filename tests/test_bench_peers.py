"""The peers' benchmark is fair: pinned peers, checked answers, and whoever cannot take part is left out aloud."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench import report
from bench.measuring import Row, Size
from bench.parts import ROOT, Started
from bench.peers import environments, run, starting
from bench.peers.catalogue import FOLDER, PEERS, Peer, tensor, workload
from bench.peers.checking import Answer, check, expected, read
from bench.peers.environments import SkippedPeerError, prepare
from bench.peers.starting import running
from bench.peers.work import Options, Photos, load, options
from bench.workloads import photos, tensors
from tests.marked import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.key)
def test_every_peer_is_pinned_and_says_what_it_is_set_to(peer: Peer) -> None:
    pins = peer.pins.read_text().split()
    server = (FOLDER / f"{peer.key}_server.py").read_text()

    assert all(re.fullmatch(r"[\w\[\]-]+==[\w.]+", pin) for pin in pins)
    assert peer.version == pins[0].partition("==")[2] != ""
    assert {pin.partition("==")[0] for pin in pins} >= {"numpy", "pillow"}
    assert server.startswith('"""Serve with ')


def test_no_server_and_no_pins_are_left_over() -> None:
    keys = {peer.key for peer in PEERS}

    assert {path.stem.removesuffix("_server") for path in FOLDER.glob("*_server.py")} == keys
    assert {path.stem for path in FOLDER.glob("*.txt")} == keys


def test_a_peer_does_to_a_photo_what_the_service_does() -> None:
    bodies = photos().bodies

    answers = [read(OK + answer) for answer in Photos()(bodies)]

    assert answers == [Answer(value, len(bodies)) for value in expected("photos")]
    assert len(set(expected("photos"))) > 1


def test_a_peer_sums_the_tensor_that_the_service_gets() -> None:
    sent = np.load(io.BytesIO(tensors().bodies[0]))
    bodies = workload("tensors", PEERS[0]).bodies

    (answer, _other) = load("tensors")([*bodies, *bodies])

    assert (sent == tensor()).all()
    assert read(OK + answer) == Answer(int(sent.sum()), 2)


def test_what_a_server_is_told_comes_through_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Options("photos", port=1, batch=8, workers=2, redis="127.0.0.1:2")
    for key, value in told.environment().items():
        monkeypatch.setenv(key, value)

    assert options() == told


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (OK + b"[12, 3]", Answer(12, 3)),
        (OK + b'["[12, 3]"]', Answer(12, 3)),
        (OK + b'{"outputs":[{"shape":[1, 1]}]}\x07\x00\x00\x00[12, 3]', Answer(12, 3)),
        (OK + b'{"id":"a","predictions":[{"sum":12}]}', Answer(12, None)),
        (OK + b'{"id":"a","predictions":[4]}', Answer(4, None)),
        (b"HTTP/1.1 500 No\r\n\r\n[12, 3]", None),
        (OK + b"nothing", None),
    ],
)
def test_an_answer_is_read_in_whatever_it_is_wrapped(reply: bytes, answer: Answer | None) -> None:
    assert read(reply) == answer


@asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_a_peer_that_answers_right_is_told_apart_from_one_that_does_not() -> None:
    right, work = expected("tensors"), workload("tensors", PEERS[0])

    async with server(b"[%d, 5]" % right[0]) as url:
        assert await asyncio.to_thread(check, url, work, right) == 5
    async with server(b"[%d, 5]" % (right[0] + 1)) as url:
        with pytest.raises(RuntimeError, match="instead of"):
            await asyncio.to_thread(check, url, work, right)


def test_a_peer_that_cannot_be_installed_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    lost = replace(PEERS[0], name="Lost", python="/nowhere/python")

    seen = run.measure([lost], [], size=Size(1.0, 1, ()))

    assert seen.skipped == {"Lost": "needs /nowhere/python"}
    assert list(seen.notes()) == ["Lost was skipped: needs /nowhere/python"]


def test_a_failed_installation_says_what_pip_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = "import sys; sys.exit('what it looked at\\nERROR: no such thing') if 'install' in sys.argv else None"
    monkeypatch.setattr(environments, "PIP", [sys.executable, "-c", pip])
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "ROOT", tmp_path)

    with pytest.raises(SkippedPeerError, match="could not be installed: ERROR: no such thing"):
        prepare(PEERS[0])


def test_a_peer_that_does_not_start_is_skipped_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "FOLDER", tmp_path)
    without_mosec, work = Path(sys.executable), workload("tensors", PEERS[0])

    with (
        pytest.raises(SkippedPeerError, match="did not start: ModuleNotFoundError: No module named 'mosec'"),
        running(PEERS[0], without_mosec, work, Options()),
    ):
        pass


def row(target: str, *, errors: int = 0, generator: float = 0.5) -> Row:
    return Row(
        "tensors: A, up to 8",
        target,
        reference=target != "ours",
        load="64",
        turn=0,
        per_s=100.0 if target == "ours" else 50.0,
        p50_ms=1.0,
        p99_ms=2.0,
        errors=errors,
        cpu_s_per_1000=0.5 if target == "ours" else 0.25,
        generator=generator,
    )


def test_the_readme_shows_both_sides_of_each_pair_and_has_a_place_for_them() -> None:
    lines = run.section([row("ours"), row("A 1.0")], ["B was skipped: no"])

    (line,) = [line for line in lines if "tensors: A" in line]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        "tensors: A, up to 8",
        "64",
        "100",
        "A 1.0",
        "50",
        "2.00",
        *["1.00"] * 2,
        *["2.00"] * 2,
        "0.500",
        "0.250",
    ]
    assert "- B was skipped: no" in lines
    assert report.section("bench-peers").search(report.README.read_text())


def test_errors_a_busy_generator_and_batches_of_one_are_noted() -> None:
    seen = run.Seen([row("ours"), row("A 1.0", errors=3, generator=0.95)], {}, {"A": 1, "B": 2})

    assert list(seen.notes()) == [
        "A: no batch of more than 1",
        "tensors: A, up to 8, A 1.0, 64 clients: 3 answers were none",
        "tensors: A, up to 8, A 1.0, 64 clients: the load generator took a whole core, it may be the limit",
    ]


def test_what_a_stopped_server_leaves_behind_is_ended_too() -> None:
    child = "import time; time.sleep(60)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    with Started() as started:
        top = psutil.Process(started.start("parent", [sys.executable, "-c", parent], {}).pid)
        until(lambda: bool(top.children()))
        below = top.children()

    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in below)


def test_the_peers_are_neither_committed_nor_checked_nor_installed_by_us() -> None:
    folder = environments.FOLDER.name

    assert folder in (ROOT / ".gitignore").read_text().split()
    assert f"rm -rf $(VENV) {folder}" in (ROOT / "Makefile").read_text()
    assert f'extend-exclude = [".venv", "{folder}"]' in (ROOT / "pyproject.toml").read_text()
    assert "mosec" not in "".join(path.read_text() for path in ROOT.glob("requirements*.txt"))
