"""A model that is Python code of the user's: `MICROBATCH_MODEL=python:module:name`."""

from __future__ import annotations

import importlib
import inspect
import logging

from config import Settings
from errors import StartError
from inputs import Accepts, ModelInput
from models.choice import Choice
from models.in_process import InProcess

log = logging.getLogger(__name__)


def open_model(settings: Settings) -> InProcess:
    """Open `python:module:name`: a class (made without arguments), an object with `predict`, or a function.

    Raises StartError where it cannot be found or its input is not known.
    """
    _, module, name = settings.model.split(":")
    try:
        found = getattr(importlib.import_module(module), name)
        model = found() if inspect.isclass(found) else found
    except Exception as exc:
        log.debug("the model cannot be opened", exc_info=exc)
        raise StartError(f"MICROBATCH_MODEL={settings.model}: {exc}") from exc
    predict = getattr(model, "predict", model)
    if not callable(predict):
        raise StartError(f"MICROBATCH_MODEL={settings.model}: must be a function or have a predict method")
    return InProcess(
        predict,
        takes=Choice.of(settings).over(_declared(model)),
        scaling=Choice.of(settings).scaling,
        warm_up=getattr(model, "warm_up", None),
        close=getattr(model, "close", None),
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
