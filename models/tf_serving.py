"""A model behind TensorFlow Serving's REST API, or a server that speaks it; a batch is one predict call."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from numpy.typing import NDArray

from config import Settings
from inputs import ModelInput
from models import tf_metadata
from models.choice import Choice
from models.instances import decode, encode
from models.remote import Call, RemoteModel
from models.server import OK, ModelServer, understood, waiting_for

COMPRESSED_BYTES = 64 * 1024
"""From here on a body is compressed where the settings say so: below, a packet or two is saved."""

_NO_METADATA = (400, 403, 404, 405, 501)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """Which model it is there, and the form in which it is called.

    version, label: at most one of them; neither: the latest version. input_name: None: bare rows.
    """

    name: str
    version: int | None = None
    label: str | None = None
    signature: str = "serving_default"
    input_name: str | None = None
    columnar: bool = False
    compressed: bool = False

    @property
    def path(self) -> str:
        """Return where it is, without the verb."""
        path = f"v1/models/{quote(self.name, safe='')}"
        if self.label is not None:
            return f"{path}/labels/{quote(self.label, safe='')}"
        return path if self.version is None else f"{path}/versions/{self.version}"

    def __str__(self) -> str:
        """Name it."""
        if self.label is not None:
            return f"{self.name} label {self.label}"
        return self.name if self.version is None else f"{self.name} version {self.version}"


class TFServing:
    """A dialect, see models/remote.py; contract: TensorFlow Serving's api_rest.md. Predictions may hold NaN."""

    takes: ModelInput

    def __init__(self, model: Served, choice: Choice) -> None:
        self._model = model
        self._choice = choice
        self._scaling = choice.scaling

    def __str__(self) -> str:
        """Name the model."""
        return str(self._model)

    async def check_ready(self, server: ModelServer) -> None:
        """Ask the status endpoint; its path names the requested version, else it tells of all."""
        response = await server.ask_about(self, self._model.path)
        with understood(response):
            states = tf_metadata.states(response.content)
        if "AVAILABLE" not in states.values():
            found = ", ".join(f"version {number} is {state}" for number, state in states.items())
            raise waiting_for(self, found or "no version is known")

    async def learn(self, server: ModelServer, sizes: Sequence[int]) -> None:
        """Ask what the model takes, see Dialect."""
        response = await server.ask_about(self, f"{self._model.path}/metadata", allowed=_NO_METADATA)
        if response.status_code != OK:
            log.info("the model server does not say what it takes: the settings do", extra={"model": str(self)})
            self.takes = self._choice.over(None)
            return
        with understood(response):
            declared = tf_metadata.declared_input(
                response.content,
                model=self._model.name,
                signature=self._model.signature,
                input_name=self._model.input_name,
                sizes=sizes,
            )
        self.takes, self._scaling = self._choice.learn(declared)

    def is_quick(self, _batch: NDArray[Any]) -> bool:
        """JSON of a batch never is."""
        return False

    def call(self, batch: NDArray[Any]) -> Call:
        """Return a predict call."""
        model, headers = self._model, {"Content-Type": "application/json"}
        body = encode(
            self._scaling.apply(batch),
            signature=model.signature,
            input_name=model.input_name,
            columnar=model.columnar,
        )
        if model.compressed and len(body) >= COMPRESSED_BYTES:
            body, headers = gzip.compress(body, compresslevel=1), headers | {"Content-Encoding": "gzip"}
        return Call(f"{model.path}:predict", body, headers)

    def predictions(self, response: httpx.Response, count: int) -> Sequence[object]:
        """Return one a row, see Dialect."""
        return decode(response.content, count)


def open_model(settings: Settings) -> RemoteModel:
    """Open the configured one.

    Raises StartError where the address cannot be one.
    """
    url, timeout_s = settings.tf_serving_url, settings.model_timeout_s
    model = Served(
        name=settings.tf_serving_name,
        version=settings.tf_serving_version,
        label=settings.tf_serving_label,
        signature=settings.tf_serving_signature,
        input_name=settings.tf_serving_input,
        columnar=settings.tf_serving_format == "columnar",
        compressed=settings.tf_serving_gzip,
    )
    return RemoteModel(
        ModelServer(url, setting="MICROBATCH_TF_SERVING_URL", timeout_s=timeout_s),
        TFServing(model, Choice.of(settings)),
        max_batch_size=settings.max_batch_size,
    )
