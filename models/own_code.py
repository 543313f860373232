"""A model that is Python code of the user's: `MICROBATCH_MODEL=python:module:name`."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass

from config import Settings
from errors import StartError, tame, text_of
from inputs import Accepts, ModelInput
from models.choice import Choice
from models.in_process import InProcess, Predict
from models.own_process import LEAST_RESTART_S, OwnProcess

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OwnCode:
    """What was found: how it predicts, and what else it has."""

    predict: Predict
    declared: ModelInput | None
    warm_up: Callable[[], object] | None
    close: Callable[[], object] | None
    any_thread: bool


def open_model(settings: Settings) -> InProcess | OwnProcess:
    """Open `python:module:name`, in a thread or in a process of its own.

    Raises StartError where it cannot be found or its input is not known; a process says so at its warm-up.
    """
    choice = Choice.of(settings)
    if settings.python_runs_in == "process":
        return OwnProcess(choice, least_restart_s=max(LEAST_RESTART_S, settings.model_timeout_s))
    found = find(settings.model)
    return InProcess(
        found.predict,
        takes=choice.over(found.declared),
        scaling=choice.scaling,
        warm_up=found.warm_up,
        close=found.close,
        any_thread=found.any_thread,
    )


def find(path: str) -> OwnCode:
    """Import `python:module:name`: a class (made without arguments), an object with `predict`, or a function.

    Raises StartError where it cannot be found.
    """
    _, module, name = path.split(":")
    try:
        found = getattr(importlib.import_module(module), name)
        model = found() if inspect.isclass(found) else found
    except Exception as exc:
        log.debug("the model cannot be opened", exc_info=tame(exc))
        raise StartError(f"MICROBATCH_MODEL={path}: {text_of(exc)}") from exc
    predict = getattr(model, "predict", model)
    if not callable(predict):
        raise StartError(f"MICROBATCH_MODEL={path}: must be a function or have a predict method")
    return OwnCode(
        predict,
        _declared(model),
        warm_up=getattr(model, "warm_up", None),
        close=getattr(model, "close", None),
        any_thread=bool(getattr(model, "any_thread", False)),
    )


def _declared(model: object) -> ModelInput | None:
    """Read what a Python model says of its input in attributes of its own."""
    accepts: Accepts = getattr(model, "accepts", "tensor")
    shape = getattr(model, "input_shape", None)
    if shape is None and accepts == "tensor":
        return None
    try:
        return ModelInput(
            shape=tuple(shape or ()),
            dtype=str(getattr(model, "input_dtype", "uint8")),
            accepts=accepts,
            fit=getattr(model, "fit", "stretch"),
        )
    except (TypeError, ValueError) as exc:
        raise StartError(f"the model's input: {exc}") from exc
