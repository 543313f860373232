"""The door to the model: what the batcher calls, and `open_model` that opens the configured one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from config import Settings
from inputs import ModelInput

ROOMS = {
    "digits": "models.digits",
    "simulated": "models.simulated",
    "tf-serving": "models.tf_serving",
    "onnx": "models.onnx_runtime",
    "efficientnet-lite0": "models.efficientnet",
    "open-inference": "models.open_inference",
    "python": "models.own_code",
}
"""Where the `open_model` of each kind of model is. Only the configured one is imported: some are heavy."""

NO_LIST = "the model must give a list of predictions, one an image"
NOT_JSON = "the model's prediction cannot be written as JSON"
"""What is said of a model that does not keep to `predict`, wherever it runs."""


class ModelProcess(Protocol):
    """A process in which nothing but the model runs. A call that is cut ends it, and it is started again at once."""

    @property
    def is_running(self) -> bool:
        """Return whether it takes calls; not while it is started again."""

    async def until_running(self) -> None:
        """Wait until it takes calls; many may wait at once.

        Raises ModelUnavailable where it cannot be started: the next one who waits starts it once more.
        """


class ModelClient(Protocol):
    """A model, wherever it runs.

    takes: what one image must be; known once it is warm.
    in_process: whether a call runs in this process, where it cannot be cut.
    process: the process of its own that it runs in; None where it has none.
    """

    @property
    def takes(self) -> ModelInput:
        """Return what one image must be; known once it is warm."""

    @property
    def in_process(self) -> bool:
        """Return whether a call runs in this process, where nothing can cut it."""

    @property
    def process(self) -> ModelProcess | None:
        """Return the process of its own that it runs in; None where it has none."""

    async def warm_up(self, sizes: Sequence[int] = ()) -> None:
        """Make the first real call as fast as the later ones.

        sizes: the only sizes that batches come in, each of which is to be tried; empty: they come in any.
        Raises ModelUnavailable where it is worth trying again, StartError where it is not.
        """

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch.

        batch: shape (n, *takes.shape) and dtype takes.dtype; for encoded images shape (n,), dtype object, bytes. It is
        the model's own: it may write to it, and keep it.
        Returns n JSON-able predictions in order; an Exception in a row's place fails that image alone.
        Raises ModelFailed or ModelUnavailable for the batch as a whole; anything else counts as ModelFailed.
        """

    async def close(self) -> None:
        """Give back what it holds."""


def open_model(settings: Settings) -> ModelClient:
    """Open the configured model: what runs in this process is loaded, nothing is connected before `warm_up`.

    Raises StartError where it cannot be found or its input is not known.
    """
    kind, _, _ = settings.model.partition(":")
    opener: Callable[[Settings], ModelClient] = importlib.import_module(ROOMS[kind]).open_model
    return opener(settings)
