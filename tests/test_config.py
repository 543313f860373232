"""A wrong setting stops the start with one line that names key, value and rule."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from config import load_settings
from errors import StartError
from tests.stack import ROOT

COMMANDS = {"batcher": ("batcher.py",), "api": ("-m", "uvicorn", "api:app", "--port", "0")}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("MICROBATCH_", "REDIS_URL")):
            monkeypatch.delenv(name)


def refusal(monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as caught:
        load_settings()
    return str(caught.value)


def test_nothing_needs_to_be_set() -> None:
    settings = load_settings()

    assert settings.max_images_per_request <= settings.max_queue_depth
    assert settings.max_wait_s < settings.request_timeout_s
    assert settings.input_shape is None


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("MAX_BATCH_SIZE", "0", "greater than or equal to 1"),
        ("MAX_BATCH_SIZE", "1025", "less than or equal to 1024"),
        ("MAX_BATCH_SIZE", "2.5", "valid integer"),
        ("LEASE_S", "soon", "valid number"),
        ("LEASE_S", "", "valid number"),
        ("LEASE_S", "0.05", "greater than or equal to 0.1"),
        ("LEASE_S", "86401", "less than or equal to 86400"),
        ("LEASE_S", "nan", "finite"),
        ("MAX_WAIT_S", "-1", "greater than or equal to 0"),
        ("REQUEST_TIMEOUT_S", "inf", "finite"),
        ("INPUT_SCALE", "nan", "finite"),
        ("INPUT_MEAN", "0.5,nan,0.5", "finite"),
        ("INPUT_STD", "inf", "finite"),
        ("INPUT_STD", "0.5,0,0.5", "must not be 0"),
        ("INPUT_MEAN", "1,two", "valid number"),
        ("INPUT_SHAPE", "8,wide", "valid integer"),
        ("INPUT_SHAPE", "0,8", "greater than or equal to 1"),
        ("INPUT_DTYPE", "picture", "numpy name"),
        ("INPUT_DTYPE", "complex64", "numpy name"),
        ("INPUT_DTYPE", "(2,", "numpy name"),
        ("MODEL_DTYPE", "object", "numpy name"),
        ("TF_SERVING_VERSION", "latest", "valid integer"),
        ("IMAGE_FORMATS", "png,heic", "heic is none of jpeg, png"),
        ("IMAGE_FORMATS", "", "at least 1 item"),
        ("ACCEPTS", "images", "'tensor' or 'encoded'"),
        ("FIT", "squash", "'stretch', 'pad'"),
        ("INPUT_LAYOUT", "chw", "'nhwc' or 'nchw'"),
        ("LOG_LEVEL", "loud", "'debug', 'info'"),
        ("QUEUE_NAME", "two words", "1 to 64 letters"),
        (
            "MODEL",
            "python:module",
            "must be digits, simulated, tf-serving, open-inference, efficientnet-lite0, onnx:path",
        ),
        ("MODEL", "onnx:", "onnx:path"),
        ("TOP_K", "-1", "greater than or equal to 0"),
        ("MODEL", "digit", "did you mean digits?"),
        ("TF_SERVING_URL", "ftp://host", "must begin with http:// or https://"),
        ("INFERENCE_URL", "host:8000", "must begin with http:// or https://"),
        ("INFERENCE_BINARY", "maybe", "'auto', 'on' or 'off'"),
    ],
)
def test_a_wrong_value_is_refused_with_key_value_and_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    message = refusal(monkeypatch, **{f"MICROBATCH_{name}": value})

    assert message.startswith(f"MICROBATCH_{name}={value}: ")
    assert rule in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "wrong", "rule"),
    [
        (("MAX_IMAGES_PER_REQUEST=9", "MAX_QUEUE_DEPTH=8"), "MAX_IMAGES_PER_REQUEST=9", "at most MAX_QUEUE_DEPTH=8"),
        (("MAX_WAIT_S=5", "REQUEST_TIMEOUT_S=5"), "MAX_WAIT_S=5", "less than REQUEST_TIMEOUT_S=5"),
        (("MAX_WAIT_S=61", "REQUEST_TIMEOUT_S=100"), "MAX_WAIT_S=61", "less than or equal to 60"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], wrong: str, rule: str
) -> None:
    message = refusal(monkeypatch, **dict(f"MICROBATCH_{each}".split("=") for each in settings))

    assert message.startswith(f"MICROBATCH_{wrong}")
    assert rule in message


def test_all_that_is_wrong_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(
        monkeypatch, MICROBATCH_LEASE_S="nan", MICROBATCH_FIT="squash", REDIS_URL="http://host", MICROBATCH_MODLE="x"
    )

    assert len(message.splitlines()) == 1
    assert all(each in message for each in ("LEASE_S=nan: ", "FIT=squash: ", "REDIS_URL=", "MICROBATCH_MODLE: "))


def test_a_value_of_two_lines_is_refused_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, MICROBATCH_LEASE_S="2\n3")

    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("misspelt", "meant"), [("BATCH_SIZE", "MAX_BATCH_SIZE"), ("LEASE", "LEASE_S"), ("MODLE", "MODEL")]
)
def test_an_unknown_setting_is_refused_with_the_one_it_is_close_to(
    monkeypatch: pytest.MonkeyPatch, misspelt: str, meant: str
) -> None:
    message = refusal(monkeypatch, **{f"MICROBATCH_{misspelt}": "3"})

    assert message == f"MICROBATCH_{misspelt}: no such setting; did you mean MICROBATCH_{meant}?"


@pytest.mark.parametrize("name", ["REDIS_URL", "redis_url", "MICROBATCH_REDIS_URL"])
def test_the_address_of_redis_is_never_said(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    message = refusal(monkeypatch, **{name: "http://:secret@host/0"})

    assert name.upper() in message
    assert "secret" not in message
    assert "host" not in message


@pytest.mark.parametrize(
    "name", ["INPUT_SHAPE", "INPUT_DTYPE", "ACCEPTS", "FIT", "LABELS", "MODEL_DTYPE", "TF_SERVING_VERSION"]
)
def test_an_empty_text_leaves_an_optional_setting_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"MICROBATCH_{name}", "")

    assert getattr(load_settings(), name.lower()) is None


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("INPUT_SHAPE", "224,224,3", (224, 224, 3)),
        ("INPUT_MEAN", "0.5, 0.25", (0.5, 0.25)),
        ("INPUT_STD", "2", (2.0,)),
        ("INPUT_STD", "", ()),
        ("IMAGE_FORMATS", "PNG, jpeg", ("png", "jpeg")),
    ],
)
def test_a_list_is_read_from_commas(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, read: tuple[object, ...]
) -> None:
    monkeypatch.setenv(f"MICROBATCH_{name}", value)

    assert getattr(load_settings(), name.lower()) == read


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.max_batch_size = 1  # type: ignore[misc]  # what is forbidden is what is tested


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("MICROBATCH_LEASE_S", "soon", "MICROBATCH_LEASE_S=soon: Input should be a valid number"),
        ("MICROBATCH_MAX_QUEUE_DEPTH", "3", "MICROBATCH_MAX_IMAGES_PER_REQUEST=64: must be at most MAX_QUEUE_DEPTH=3"),
        ("MICROBATCH_BATCH_SIZE", "3", "MICROBATCH_BATCH_SIZE: no such setting; did you mean"),
        ("REDIS_URL", "http://:secret@host", "REDIS_URL=(not shown): "),
        ("REDIS_URL", "redis://:secret/with-a-slash@host/0", "REDIS_URL=(not shown): "),
    ],
)
@pytest.mark.parametrize("process", COMMANDS)
def test_a_process_with_a_wrong_setting_ends_with_one_line_and_code_1(
    process: str, name: str, value: str, line: str
) -> None:
    ended = subprocess.run(
        [sys.executable, *COMMANDS[process]],
        cwd=ROOT,
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode == 1, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"{process}: {line}")
    assert "secret" not in ended.stderr
