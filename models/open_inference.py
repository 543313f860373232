"""A model behind the Open Inference Protocol V2 over HTTP (Triton, KServe and others); a batch is one infer call."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from config import Settings
from errors import StartError
from inputs import ModelInput
from models.choice import Choice
from models.inference_metadata import WireInput, declared_input, takes_binary
from models.remote import Call, RemoteModel
from models.server import OK, ModelServer, error_of, own_text, understood, waiting_for
from models.tensors import BYTES, HEADER_LENGTH, Tensor, by_row, pack, unpack

INLINE_BYTES = 4 * 1024 * 1024
"""Up to here the raw bytes of a batch are joined at once: a thread would take longer to wake than that."""

_REFUSED = 400
_UNSUPPORTED = 501
_HAS_NO_SUCH = (404, 405, _UNSUPPORTED)

_ID = {"id": "microbatch"}
"""Optional by the protocol, but KServe cannot answer a request in JSON that has none."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """Which model it is there, and how it is called.

    version: None: the server chooses. input_name: None: the only one that the model declares.
    """

    name: str
    version: str | None = None
    input_name: str | None = None
    binary: Literal["auto", "on", "off"] = "auto"

    @property
    def path(self) -> str:
        """Return where it is, without the verb."""
        path = f"v2/models/{quote(self.name, safe='')}"
        return path if self.version is None else f"{path}/versions/{quote(self.version, safe='')}"

    def __str__(self) -> str:
        """Name it."""
        return self.name if self.version is None else f"{self.name} version {self.version}"


class OpenInference:
    """A dialect, see models/remote.py; predictions may be numpy values."""

    takes: ModelInput
    _input: WireInput

    def __init__(self, model: Served, choice: Choice) -> None:
        self._model = model
        self._choice = choice
        self._scaling = choice.scaling
        self._binary = model.binary == "on"

    def __str__(self) -> str:
        """Name the model."""
        return str(self._model)

    async def check_ready(self, server: ModelServer) -> None:
        """Ask whether the model is ready: the status says so, bodies differ from server to server."""
        response = await server.ask("GET", f"{self._model.path}/ready")
        if response.status_code == _UNSUPPORTED:  # as KServe says of any version
            raise StartError(f"the model {self} is not to be had: its server answered 501: {own_text(response)}")
        if not response.is_success:
            not_yet = response.status_code == _REFUSED
            raise waiting_for(self, "it is not ready" if not_yet else error_of(response).message)

    async def learn(self, server: ModelServer, sizes: Sequence[int]) -> None:
        """Ask what server and model take, see Dialect; where the model does not say, the settings name its input."""
        if self._model.binary == "auto":
            self._binary = await self._takes_binary(server)
        response = await server.ask_about(self, self._model.path, allowed=_HAS_NO_SUCH)
        found = None
        if response.status_code == OK:
            with understood(response):
                found = declared_input(
                    response.content, model=self._model.name, name=self._model.input_name, sizes=sizes
                )
        if found is None:
            self._take_settings()
        else:
            declared, self._input = found
            self.takes, self._scaling = self._choice.learn(declared)
        if self._input.datatype == "FP16" and not self._binary:
            raise StartError(
                f"MICROBATCH_INFERENCE_BINARY={self._model.binary}: the model {self} takes FP16, "
                "which only raw bytes can carry: set it to on, if the server takes them"
            )

    async def _takes_binary(self, server: ModelServer) -> bool:
        """Ask whether the server takes raw bytes; one that says nothing of itself gets JSON."""
        response = await server.ask_about(self, "v2", allowed=(_REFUSED, *_HAS_NO_SUCH))
        with understood(response):
            return response.status_code == OK and takes_binary(response.content)

    def _take_settings(self) -> None:
        if self._model.input_name is None:
            raise StartError(f"MICROBATCH_INFERENCE_INPUT=: is needed, the model {self} does not say what it takes")
        log.info("the model server does not say what it takes: the settings do", extra={"model": str(self)})
        self.takes = self._choice.over(None)
        sent = self._scaling.apply(np.zeros((1, *self.takes.shape), self.takes.dtype)).dtype.name
        self._input = WireInput.of(self._model.input_name, "bytes" if self.takes.accepts == "encoded" else sent)

    def is_quick(self, batch: NDArray[Any]) -> bool:
        """Return whether the call is made sooner than a thread would wake for it."""
        return self._binary and batch.nbytes <= INLINE_BYTES and not self._scaling.changes_values

    def call(self, batch: NDArray[Any]) -> Call:
        """Return an infer call."""
        path = f"{self._model.path}/infer"
        values = self._scaling.apply(batch)
        if self._input.datatype == BYTES:
            values = values.reshape(len(values), *self._input.row)
        tensor = Tensor(self._input.name, self._input.datatype, values)
        if not self._binary:
            body, _ = pack("inputs", [tensor], binary=False, fields=_ID)
            return Call(path, body, {"Content-Type": "application/json"})
        asked = _ID | {"parameters": {"binary_data_output": True}}
        body, length = pack("inputs", [tensor], binary=True, fields=asked)
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Encoding": "identity",  # raw numbers compress badly, and Triton would try
            HEADER_LENGTH: str(length),
        }
        return Call(path, body, headers)

    def predictions(self, response: httpx.Response, count: int) -> Sequence[object]:
        """Return one a row, see Dialect."""
        return by_row(unpack("outputs", response.content, response.headers.get(HEADER_LENGTH)), count)


def open_model(settings: Settings) -> RemoteModel:
    """Open the configured one.

    Raises StartError where the address cannot be one.
    """
    url, timeout_s = settings.inference_url, settings.model_timeout_s
    model = Served(
        name=settings.inference_name,
        version=settings.inference_version,
        input_name=settings.inference_input,
        binary=settings.inference_binary,
    )
    return RemoteModel(
        ModelServer(url, setting="MICROBATCH_INFERENCE_URL", timeout_s=timeout_s),
        OpenInference(model, Choice.of(settings)),
        max_batch_size=settings.max_batch_size,
    )
