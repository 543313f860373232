"""Several models are read from the environment, each with its own settings, or the start stops with one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from config import Settings, variable_name
from errors import QueueFull, StartError
from model_set import OF_THE_PROCESS, choose, load_models
from services import Services
from tests.stack import ROOT

SET = {"MODELS": "digits,photos"}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("MICROBATCH_", "REDIS_URL")):
            monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **settings: str) -> dict[str, Settings]:
    for name, value in settings.items():
        monkeypatch.setenv(f"MICROBATCH_{name}", value)
    return load_models()


def refusal(monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    with pytest.raises(StartError) as caught:
        load(monkeypatch, **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model", "Own-name.2"])
def test_one_model_has_the_name_that_its_clients_know_and_the_queue_that_it_always_had(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    models = load(monkeypatch, SERVED_NAME=name)

    assert {model: settings.queue_name for model, settings in models.items()} == {name: "default"}


def test_each_model_has_its_own_settings_or_what_is_common(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"PHOTOS__MODEL": "simulated", "PHOTOS__INPUT_SHAPE": "8,8", "PHOTOS__MAX_BATCH_SIZE": "4"}

    models = load(monkeypatch, **SET, **own, MAX_BATCH_SIZE="16", LEASE_S="3")

    assert list(models) == ["digits", "photos"]
    assert [one.model for one in models.values()] == ["digits", "simulated"]
    assert [one.input_shape for one in models.values()] == [None, (8, 8)]
    assert [one.max_batch_size for one in models.values()] == [16, 4]
    assert [one.lease_s for one in models.values()] == [3.0, 3.0]
    assert choose(models, None) is models["digits"]
    assert choose(models, "photos") is models["photos"]


@pytest.mark.parametrize(
    ("settings", "queues", "served"),
    [
        ({}, ["digits", "photos"], ["digits", "photos"]),
        ({"QUEUE_NAME": "shop"}, ["shop.digits", "shop.photos"], ["digits", "photos"]),
        ({"PHOTOS__QUEUE_NAME": "p", "PHOTOS__SERVED_NAME": "Photos-2"}, ["digits", "p"], ["digits", "Photos-2"]),
        ({"MODELS": "photos", "SERVED_NAME": "all"}, ["photos"], ["all"]),
    ],
)
def test_queues_and_served_names_are_those_of_the_models_unless_they_are_set(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], queues: list[str], served: list[str]
) -> None:
    models = load(monkeypatch, **SET | settings)

    assert [one.queue_name for one in models.values()] == queues
    assert [one.served_name for one in models.values()] == served


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"MODELS": "digits,Photos"}, "MICROBATCH_MODELS=digits,Photos: Photos is not 1 to 64 lower-case letters"),
        ({"MODELS": "a__b"}, "a__b is not"),
        ({"MODELS": "a,,b"}, "an empty name is not"),
        ({"MODELS": "a" * 65}, "is not 1 to 64"),
        ({"MODELS": "a,b,a"}, "MICROBATCH_MODELS=a,b,a: a is named twice"),
        ({"PHOTOS__MODEL": "digits", "MODELS": ""}, "MICROBATCH_PHOTOS__MODEL: MICROBATCH_MODELS names no such model"),
        ({"PHOTO__MODEL": "digits"}, "names no such model; did you mean MICROBATCH_PHOTOS__MODEL?"),
        ({"PHOTOS__MODLE": "digits"}, "no such setting; did you mean MICROBATCH_PHOTOS__MODEL?"),
        ({"PHOTOS__MODEL": "digit"}, "MICROBATCH_PHOTOS__MODEL=digit: must be digits, simulated"),
        ({"PHOTOS__LEASE_S": "nan"}, "MICROBATCH_PHOTOS__LEASE_S=nan: Input should be a finite number"),
        ({"PHOTOS__REDIS_URL": "x"}, "MICROBATCH_PHOTOS__REDIS_URL: all models share this; set REDIS_URL"),
        (
            {"PHOTOS__LOG_LEVEL": "info"},
            "MICROBATCH_PHOTOS__LOG_LEVEL: all models share this; set MICROBATCH_LOG_LEVEL",
        ),
        ({"PHOTOS__MAX_QUEUE_DEPTH": "8"}, "must be at most MAX_QUEUE_DEPTH=8 (of the model photos)"),
        ({"PHOTOS__QUEUE_NAME": "digits"}, "MICROBATCH_PHOTOS__QUEUE_NAME=digits: digits has it too"),
        ({"SERVED_NAME": "x"}, "MICROBATCH_SERVED_NAME=x: digits has it too, but photos needs one of its own"),
        ({"QUEUE_NAME": "q" * 60}, f"MICROBATCH_QUEUE_NAME={'q' * 60}: must be 1 to 64 letters"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], says: str
) -> None:
    message = refusal(monkeypatch, **SET | settings)

    assert says in message
    assert len(message.splitlines()) == 1


def test_all_that_is_wrong_with_the_models_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(monkeypatch, **SET, PHOTOS__LEASE_S="x", DIGITS__LEASE_S="y", CARS__MODEL="digits")

    assert all(each in message for each in ("PHOTOS__LEASE_S=x: ", "DIGITS__LEASE_S=y: ", "CARS__MODEL: "))


def test_the_readme_names_what_all_models_share() -> None:
    section = (ROOT / "README.md").read_text().partition("### Several models")[2].partition("\n## ")[0]

    assert all(f"`{variable_name(field)}`" in section for field in OF_THE_PROCESS - {"models"})
    assert Settings.model_fields.keys() >= OF_THE_PROCESS


@pytest.mark.parametrize("command", [("batcher.py",), ("-m", "tools.top"), ("-m", "tools.dead")])
def test_a_command_for_an_unknown_model_ends_with_one_line_that_names_the_known_ones(command: tuple[str, ...]) -> None:
    ended = subprocess.run(
        [sys.executable, *command, "photo"],
        cwd=ROOT,
        env=os.environ | {"MICROBATCH_MODELS": "digits,photos"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.endswith("there is no model photo, only digits, photos; did you mean photos?\n")
    assert len(ended.stderr.splitlines()) == 1


async def test_the_models_of_a_process_share_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    services = Services(load(monkeypatch, **SET, MAX_HELD_BYTES="100"))

    with services.named("digits").budget.share() as held, services.named("photos").budget.share() as more:
        held.hold(75)

        with pytest.raises(QueueFull):
            more.hold(1)
    await services.close()
