"""The Makefile's list of verbs."""

from __future__ import annotations

import re
import subprocess

from tools.processes import ROOT


def test_help_lists_every_verb_and_is_the_default() -> None:
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared

    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607 - any make

    assert re.findall(r"^ *make (\S+) +\S", shown, re.MULTILINE) == declared[1].split()
