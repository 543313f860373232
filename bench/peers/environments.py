"""A virtual environment for each peer, made once from its pins."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.parts import ROOT
from bench.peers.catalogue import Peer
from tools.processes import say

FOLDER = ROOT / ".venv-peers"
INSTALL_S = 900.0
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


class SkippedPeerError(Exception):
    """A peer cannot be measured here; the message says why."""


def prepare(peer: Peer) -> Path:
    """Return the peer's Python, see `made`."""
    return made(peer.name, peer.pins, base=peer.python or sys.executable)


def made(name: str, pins: Path, *, base: str) -> Path:
    """Return the Python of an environment, made with another one where its pins have changed since.

    Raises SkippedPeerError where that fails.
    """
    folder = FOLDER / pins.stem
    python, stamp = folder / "bin" / "python", folder / ".made"
    if stamp.exists() and stamp.read_text() == pins.read_text():
        return python
    found = shutil.which(base)
    if found is None:
        raise SkippedPeerError(f"needs {base}")
    say(f"installing {name} into {folder.relative_to(ROOT)}")
    _run([found, "-m", "venv", "--clear", "--without-pip", str(folder)])
    _run([*PIP, "--python", str(python), "install", "--quiet", "--requirement", str(pins)])
    stamp.write_text(pins.read_text())
    return python


def installed(peer: Peer) -> list[str]:
    """Return all that its environment holds, with versions."""
    return _run([*PIP, "--python", str(FOLDER / peer.key / "bin" / "python"), "freeze"]).split()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)  # noqa: S603  # our own
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise SkippedPeerError(f"could not be installed: {exc}") from exc
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()[-200:]]
        raise SkippedPeerError(f"could not be installed: {lines[-1]}")
    return done.stdout
