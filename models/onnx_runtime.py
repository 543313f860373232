"""A graph in ONNX Runtime, in this process: `MICROBATCH_MODEL=onnx:path/to/model.onnx`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import Settings
from errors import StartError
from inputs import Fit
from models.choice import ANY_SIZE, Choice, Declared, numpy_dtype, one_image
from models.in_process import InProcess
from models.ranking import USUAL_COUNT, Ranking, read_labels

HOW_TO_INSTALL = ".venv/bin/pip install -r requirements-onnx.txt"

try:
    import onnxruntime
except ImportError as missing:
    raise StartError(f"ONNX Runtime cannot be imported ({missing}): {HOW_TO_INSTALL}") from missing

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
"""No strings: ONNX Runtime's hold text, into which it would turn an image file without a word."""

_WARNING, _FATAL = 2, 4
_CHANNELS = (1, 3)

log = logging.getLogger(__name__)


class Graph:
    """A loaded graph of one input, whose first axis is the batch."""

    def __init__(self, source: Path | bytes, *, name: str, threads: int, ranking: Ranking | None) -> None:
        """Load it: what is in this process need not be waited for, and its input is known at once.

        source: a file, or its content.
        name: in messages.
        threads: of one call; 0: one a core.
        Raises StartError where it cannot be loaded.
        """
        self._name = name
        self._ranking = ranking
        self._session = _load(source, name, threads)
        self._outputs = [output.name for output in self._session.get_outputs()]
        # What goes wrong in a call is raised, and logged where that is caught.
        self._quietly = onnxruntime.RunOptions()
        self._quietly.log_severity_level = _FATAL
        self._inputs = self._session.get_inputs()

    def predict(self, batch: NDArray[Any]) -> list[object]:
        """Return a row of the output for each image, or of several outputs an object by their names."""
        found = self._session.run(None, {self._inputs[0].name: batch}, self._quietly)
        outputs = [self._rows(*each, len(batch)) for each in zip(self._outputs, found, strict=True)]
        if self._ranking:
            return list(self._ranking.of(np.asarray(outputs[0])))
        if len(outputs) == 1:
            return list(outputs[0])
        return [dict(zip(self._outputs, rows, strict=True)) for rows in zip(*outputs, strict=True)]

    def declared(self, sizes: Sequence[int]) -> Declared:
        """Return its input.

        sizes: the only sizes of batch that are sent, empty: any.
        Raises StartError where there are other inputs than one, or it takes no such batches.
        """
        if len(self._inputs) != 1:
            found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in self._inputs) or "none"
            raise StartError(f"the model {self._name} must have one input, it has {len(self._inputs)}: {found}")
        (one,) = self._inputs
        dtype = numpy_dtype(one.type, _DTYPES, model=self._name)
        dims = tuple(size if isinstance(size, int) and size > 0 else ANY_SIZE for size in one.shape)
        return Declared(one.name, one_image(dims or None, self._name, sizes), dtype)

    def _rows(self, name: str, output: Any, count: int) -> Sequence[object]:
        """Return an output as one row an image."""
        shape = output.shape if isinstance(output, np.ndarray) else (len(output),)
        if shape[:1] != (count,):
            raise StartError(f"the output {name} of the model {self._name} has shape {shape}, not one row an image")
        rows: Sequence[object] = output
        return output.tolist() if isinstance(output, np.ndarray) and output.dtype.hasobject else rows


def _load(source: Path | bytes, name: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _WARNING
    options.intra_op_num_threads = threads or cpu_count() or 1  # its own 0 ties them to cores, which costs a fifth
    # Threads that wait for the next call in a busy loop take the cores from the other processes of the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    onnxruntime.disable_telemetry_events()
    try:
        graph = source if isinstance(source, bytes) else str(source)
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's exceptions have no other base
        reason = " ".join(str(exc).split())
        raise StartError(f"MICROBATCH_MODEL={name}: cannot be loaded: {reason}") from exc


def open_graph(source: Path | bytes, settings: Settings, *, ranking: Ranking | None, fit: Fit = "stretch") -> InProcess:
    """Open a graph, with what the settings say of its input and its threads.

    fit: of images, where the settings say none.
    Its warm-up is of two images: many a graph was exported with a batch of one somewhere inside.
    Raises StartError where it cannot be loaded or does not go together with them.
    """
    graph = Graph(source, name=settings.model, threads=settings.onnx_threads, ranking=ranking)
    choice, sizes = Choice.of(settings), settings.allowed_batch_sizes
    takes, scaling = replace(choice, fit=choice.fit or fit).learn(graph.declared(sizes))
    if not takes.takes_images and len(takes.shape) == 3 and takes.shape[0] in _CHANNELS:
        told = {"model": settings.model, "shape": str(takes.shape)}
        log.warning("the model takes no images but tensors: set MICROBATCH_INPUT_LAYOUT=nchw", extra=told)
    tried = np.zeros((min(2, settings.max_batch_size), *takes.shape), takes.dtype)
    return InProcess(
        graph.predict,
        takes=takes,
        scaling=scaling,
        warm_up=None if sizes else lambda: graph.predict(scaling.apply(tried)),
        any_thread=True,
    )


def ranking_of(settings: Settings, *, labels: tuple[str, ...] = ()) -> Ranking | None:
    """Return how scores are told; None: as they are.

    labels: where the settings name no file of them.
    """
    labels = read_labels(settings.labels) if settings.labels else labels
    return Ranking(labels, settings.top_k or USUAL_COUNT) if labels or settings.top_k else None


def open_model(settings: Settings) -> InProcess:
    """Open `onnx:path`.

    Raises StartError as `open_graph` does.
    """
    path = Path(settings.model.removeprefix("onnx:")).expanduser()
    if not path.is_file():
        raise StartError(f"MICROBATCH_MODEL={settings.model}: there is no such file, seen from {Path.cwd()}")
    return open_graph(path, settings, ranking=ranking_of(settings))
