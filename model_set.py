"""The models of a service, each with its own settings: the one that is configured, or those of `MICROBATCH_MODELS`.

A setting of one of several models is `MICROBATCH_<NAME>__<SETTING>`, else what all have in common.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from complaints import did_you_mean, sentences
from config import PREFIX, SEPARATOR, Settings, load_settings, variable_name
from errors import StartError

OF_THE_PROCESS = frozenset(
    (
        *("models", "redis_url", "redis_timeout_s", "shutdown_grace_s", "drain_delay_s", "max_held_bytes"),
        *("decode_threads", "metrics", "traces", "log_level", "log_format"),
    )
)
"""The settings that one model cannot have for itself."""
OWN = ("queue_name", "served_name")
"""The settings that no two models may have the same of."""


def load_models() -> dict[str, Settings]:
    """Read each model's settings from the environment, by the models' names, the default one first.

    A service of one model calls it as its clients do, by its `served_name`.
    Raises StartError naming key, value and rule, one line for all that is wrong; what is common is looked at first.
    """
    common = load_settings()
    given = {name.upper(): name for name in os.environ if name.upper().startswith(PREFIX) and SEPARATOR in name}
    wrong = list(_unknown(given, common.models))
    models = {}
    for model in common.models:
        try:
            models[model] = _settings_of(model, given, common)
        except ValidationError as exc:
            wrong += _sentences(exc, model, given)
    wrong += _shared(models, given)
    if wrong:
        raise StartError("; ".join(wrong))
    return models or {common.served_name: common}


def choose(models: Mapping[str, Settings], name: str | None) -> Settings:
    """Return the settings of the model of this name; None: of the default one.

    Raises StartError where there is none such.
    """
    found = next(iter(models.values())) if name is None else models.get(name)
    if found is None:
        raise StartError(f"there is no model {name}, only {', '.join(models)}{did_you_mean(str(name), models)}")
    return found


def _settings_of(model: str, given: Mapping[str, str], common: Settings) -> Settings:
    """Return what is common with what is the model's own in its place; the model's name is that of its queue as well.

    Raises ValidationError.
    """
    own: dict[str, Any] = {"queue_name": model, "served_name": model}
    if "queue_name" in common.model_fields_set:
        own["queue_name"] = f"{common.queue_name}.{model}"
    if "served_name" in common.model_fields_set:
        del own["served_name"]
    texts = {field: os.environ[given[name]] for field in _fields() if (name := _variable(model, field)) in given}
    return Settings(**own | texts)


def _fields() -> list[str]:
    """Return the settings that a model can have for itself."""
    return [field for field in Settings.model_fields if field not in OF_THE_PROCESS]


def _variable(model: str, field: str) -> str:
    """Return the environment variable that sets a field for one model."""
    return f"{PREFIX}{model}{SEPARATOR}{field}".upper()


def _named(model: str, field: str, given: Mapping[str, str]) -> str:
    """Return the variable by which a field of a model was set, or would be for all of them."""
    return given.get(_variable(model, field), variable_name(field))


def _sentences(exc: ValidationError, model: str, given: Mapping[str, str]) -> Iterator[str]:
    """Say what is wrong with one model; of which, where the variable does not tell."""
    names = {field: _named(model, field, given) for field in Settings.model_fields}
    for sentence in sentences(exc, names, os.environ):
        tells = sentence.upper().startswith(f"{PREFIX}{model}{SEPARATOR}".upper())
        yield sentence if tells else f"{sentence} (of the model {model})"


def _unknown(given: Mapping[str, str], models: Collection[str]) -> Iterator[str]:
    """Say of each variable that is no model's setting why it is none."""
    known = [_variable(model, field) for model in models for field in _fields()]
    for name in sorted(given.keys() - set(known)):
        model, _, setting = name.removeprefix(PREFIX).lower().partition(SEPARATOR)
        if model in models and setting in OF_THE_PROCESS:
            yield f"{given[name]}: all models share this; set {variable_name(setting)}"
        else:
            rule = "no such setting" if model in models else f"{PREFIX}MODELS names no such model"
            yield f"{given[name]}: {rule}{did_you_mean(name, known)}"


def _shared(models: Mapping[str, Settings], given: Mapping[str, str]) -> Iterator[str]:
    """Say where two models have the same of what each needs for itself."""
    for field in OWN:
        first: dict[str, str] = {}
        for model, settings in models.items():
            value = getattr(settings, field)
            if (other := first.setdefault(value, model)) != model:
                yield f"{_named(model, field, given)}={value}: {other} has it too, but {model} needs one of its own"
