"""The Makefile's list of verbs."""

from __future__ import annotations

import re
import subprocess

import pytest

from tools.processes import ROOT


def test_help_lists_every_verb_and_is_the_default() -> None:
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert declared

    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout  # noqa: S607 - any make

    assert re.findall(r"^ *make (\S+) +\S", shown, re.MULTILINE) == declared[1].split()


@pytest.mark.parametrize("name", ["MODEL", "MICROBATCH_MODEL", "MICROBATCH_PHOTOS__MODEL"])
@pytest.mark.parametrize(
    ("model", "needs"),
    [("efficientnet-lite0", True), ("onnx:my models/a.onnx", True), ("digits", False), ("python:onnx:Model", False)],
)
def test_run_installs_onnx_runtime_for_the_models_that_need_it(name: str, model: str, needs: bool) -> None:  # noqa: FBT001 - a parameter
    # given: requirements that make takes as changed, and shows what it would do
    pretend = ["make", "--dry-run", "--what-if=requirements-onnx.txt", "run", f"{name}={model}"]

    shown = subprocess.run(pretend, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert ("-r requirements-onnx.txt" in shown) is needs
    assert name != "MODEL" or f"MICROBATCH_MODEL='{model}' exec" in shown


def test_run_without_a_model_leaves_it_to_the_environment() -> None:
    shown = subprocess.run(
        ["make", "--dry-run", "run"],  # noqa: S607 - any make
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert "MICROBATCH_MODEL" not in shown
