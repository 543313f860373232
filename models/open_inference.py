"""A model behind the Open Inference Protocol V2 over HTTP (Triton, KServe and others); a batch is one infer call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from config import Settings
from errors import ModelUnavailable, StartError
from inputs import ModelInput
from models.choice import Choice
from models.inference_metadata import WireInput, declared_input, takes_binary
from models.server import ModelServer, check_tried_out, error_of, nonsense, own_text
from models.tensors import BYTES, HEADER_LENGTH, Tensor, by_row, pack, unpack

INLINE_BYTES = 4 * 1024 * 1024
"""Up to here the raw bytes of a batch are joined at once: a thread would take longer to wake than that."""

_OK = 200
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
    """A model client, see model_client.py; what is sent is only known once it is warm."""

    in_process = False
    takes: ModelInput
    _input: WireInput

    def __init__(self, server: ModelServer, model: Served, choice: Choice, *, max_batch_size: int) -> None:
        self._server = server
        self._model = model
        self._choice = choice
        self._scaling = choice.scaling
        self._max_batch_size = max_batch_size
        self._binary = model.binary == "on"

    async def warm_up(self, sizes: Sequence[int] = ()) -> None:
        """Ask whether the model is there, without waiting for it, and what it takes; predict blank batches.

        One blank tensor, then as many as a batch may have; or each of the sizes that there are. Raises
        ModelUnavailable where the model is not there yet, StartError where it does not take what it would be sent.
        """
        await self._check_ready()
        await self._choose_encoding()
        await self._learn(sizes or ((1,) if self._max_batch_size == 1 else ()))
        if self._input.datatype == "FP16" and not self._binary:
            raise StartError(
                f"MICROBATCH_INFERENCE_BINARY={self._model.binary}: the model {self._model} takes FP16, "
                "which only raw bytes can carry: set it to on, if the server takes them"
            )
        if self.takes.accepts == "encoded":
            return  # there is no blank image file that every model would take
        for count in sizes or sorted({1, self._max_batch_size}):
            await self._try_out(count)

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch in one call, see ModelClient; predictions may be numpy values, or hold NaN."""
        response = await self._post(batch)
        if response.status_code != _OK:
            raise error_of(response)
        return _predictions(response, len(batch))

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def _check_ready(self) -> None:
        """Ask whether the model is ready: the status says so, bodies differ from server to server."""
        response = await self._server.ask("GET", f"{self._model.path}/ready")
        if response.status_code == _UNSUPPORTED:  # as KServe says of any version
            raise StartError(f"the model {self._model} is not to be had: its server answered 501: {own_text(response)}")
        if not response.is_success:
            not_yet = response.status_code == _REFUSED
            raise self._waiting("it is not ready" if not_yet else error_of(response).message)

    async def _choose_encoding(self) -> None:
        """Ask for raw bytes, where the settings leave it open; a server that says nothing of itself gets JSON."""
        if self._model.binary != "auto":
            return
        response = await self._ask("v2", allowed=(_REFUSED, *_HAS_NO_SUCH))
        try:
            self._binary = response.status_code == _OK and takes_binary(response.content)
        except ValueError as exc:
            raise nonsense(response) from exc

    async def _learn(self, sizes: Sequence[int]) -> None:
        """Ask what the model takes; where it does not say, the settings must, and name the input."""
        response = await self._ask(self._model.path, allowed=_HAS_NO_SUCH)
        found = None
        if response.status_code == _OK:
            try:
                found = declared_input(
                    response.content, model=self._model.name, name=self._model.input_name, sizes=sizes
                )
            except ValueError as exc:
                raise nonsense(response) from exc
        if found is None:
            self._take_settings()
            return
        declared, self._input = found
        self.takes, self._scaling = self._choice.learn(declared)

    def _take_settings(self) -> None:
        if self._model.input_name is None:
            raise StartError(
                f"MICROBATCH_INFERENCE_INPUT=: is needed, the model {self._model} does not say what it takes"
            )
        log.info("the model server does not say what it takes: the settings do", extra={"model": str(self._model)})
        self.takes = self._choice.over(None)
        sent = self._scaling.apply(np.zeros((1, *self.takes.shape), self.takes.dtype)).dtype.name
        self._input = WireInput.of(self._model.input_name, "bytes" if self.takes.accepts == "encoded" else sent)

    async def _try_out(self, count: int) -> None:
        """Predict a blank batch."""
        response = await self._post(np.zeros((count, *self.takes.shape), self.takes.dtype))
        check_tried_out(response, model=self._model, takes=self.takes, count=count)
        _predictions(response, count)

    async def _ask(self, path: str, allowed: Sequence[int]) -> httpx.Response:
        response = await self._server.ask("GET", path)
        if response.status_code not in (_OK, *allowed):
            raise self._waiting(error_of(response).message)
        return response

    def _waiting(self, reason: str) -> ModelUnavailable:
        return ModelUnavailable(f"waiting for the model {self._model}: {reason}")

    async def _post(self, batch: NDArray[Any]) -> httpx.Response:
        if self._binary and batch.nbytes <= INLINE_BYTES and not self._scaling.changes_values:
            body, headers = self._request(batch)
        else:
            # As in TFServing: JSON of photographs takes long enough for leases to run out.
            body, headers = await asyncio.to_thread(self._request, batch)
        return await self._server.ask("POST", f"{self._model.path}/infer", content=body, headers=headers)

    def _request(self, batch: NDArray[Any]) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of an infer call."""
        values = self._scaling.apply(batch)
        if self._input.datatype == BYTES:
            values = values.reshape(len(values), *self._input.row)
        tensor = Tensor(self._input.name, self._input.datatype, values)
        if not self._binary:
            return pack("inputs", [tensor], binary=False, fields=_ID)[0], {"Content-Type": "application/json"}
        asked = _ID | {"parameters": {"binary_data_output": True}}
        body, length = pack("inputs", [tensor], binary=True, fields=asked)
        return body, {
            "Content-Type": "application/octet-stream",
            "Accept-Encoding": "identity",  # raw numbers compress badly, and Triton would try
            HEADER_LENGTH: str(length),
        }


def _predictions(response: httpx.Response, count: int) -> list[object]:
    try:
        return by_row(unpack("outputs", response.content, response.headers.get(HEADER_LENGTH)), count)
    except ValueError as exc:
        raise nonsense(response) from exc


def open_model(settings: Settings) -> OpenInference:
    """Open the configured one.

    Raises StartError where the address cannot be one.
    """
    url, timeout_s = settings.inference_url, settings.model_timeout_s
    return OpenInference(
        ModelServer(url, setting="MICROBATCH_INFERENCE_URL", timeout_s=timeout_s),
        Served(
            name=settings.inference_name,
            version=settings.inference_version,
            input_name=settings.inference_input,
            binary=settings.inference_binary,
        ),
        Choice.of(settings),
        max_batch_size=settings.max_batch_size,
    )
