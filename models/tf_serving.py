"""A model behind TensorFlow Serving's REST API, or a server that speaks it; a batch is one predict call."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from config import Settings
from errors import ModelUnavailable
from inputs import ModelInput
from models import tf_metadata
from models.choice import Choice
from models.instances import decode, encode
from models.server import ModelServer, check_tried_out, error_of, nonsense

COMPRESSED_BYTES = 64 * 1024
"""From here on a body is compressed where the settings say so: below, a packet or two is saved."""

_OK = 200
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
    """A model client, see model_client.py; contract: TensorFlow Serving's api_rest.md."""

    in_process = False
    takes: ModelInput

    def __init__(self, server: ModelServer, model: Served, choice: Choice, *, max_batch_size: int) -> None:
        self._server = server
        self._model = model
        self._choice = choice
        self._scaling = choice.scaling
        self._max_batch_size = max_batch_size

    async def warm_up(self, sizes: Sequence[int] = ()) -> None:
        """Ask whether the model is there, without waiting for it, and what it takes; predict blank batches.

        One blank tensor, then as many as a batch may have; or each of the sizes that there are. Raises
        ModelUnavailable where the model is not there yet, StartError where it does not take what it would be sent.
        """
        await self._check_available()
        await self._learn(sizes)
        if self.takes.accepts == "encoded":
            return  # there is no blank image file that every model would take
        for count in sizes or sorted({1, self._max_batch_size}):
            await self._try_out(count)

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch in one call, see ModelClient; predictions may hold NaN and infinite floats."""
        response = await self._post(batch)
        if response.status_code != _OK:
            raise error_of(response)
        try:
            return decode(response.content, len(batch))
        except ValueError as exc:
            raise nonsense(response) from exc

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def _check_available(self) -> None:
        """Ask the status endpoint; its path names the requested version, else it tells of all."""
        response = await self._ask("")
        try:
            states = tf_metadata.states(response.content)
        except ValueError as exc:
            raise nonsense(response) from exc
        if "AVAILABLE" not in states.values():
            found = ", ".join(f"version {number} is {state}" for number, state in states.items())
            raise ModelUnavailable(f"waiting for the model {self._model}: {found or 'no version is known'}")

    async def _learn(self, sizes: Sequence[int]) -> None:
        """Ask what the model takes; a server that does not say leaves it to the settings."""
        response = await self._ask("/metadata", allowed=_NO_METADATA)
        if response.status_code != _OK:
            log.info("the model server does not say what it takes: the settings do", extra={"model": str(self._model)})
            self.takes = self._choice.over(None)
            return
        try:
            declared = tf_metadata.declared_input(
                response.content,
                model=self._model.name,
                signature=self._model.signature,
                input_name=self._model.input_name,
                sizes=sizes,
            )
        except ValueError as exc:
            raise nonsense(response) from exc
        self.takes, self._scaling = self._choice.learn(declared)

    async def _try_out(self, count: int) -> None:
        """Predict a blank batch."""
        response = await self._post(np.zeros((count, *self.takes.shape), self.takes.dtype))
        check_tried_out(response, model=self._model, takes=self.takes, count=count)
        try:
            decode(response.content, count)
        except ValueError as exc:
            raise nonsense(response) from exc

    async def _ask(self, what: str, allowed: Sequence[int] = ()) -> httpx.Response:
        response = await self._server.ask("GET", self._model.path + what)
        if response.status_code not in (_OK, *allowed):
            raise ModelUnavailable(f"waiting for the model {self._model}: {error_of(response).message}")
        return response

    async def _post(self, batch: NDArray[Any]) -> httpx.Response:
        # In a thread, row by row: encoding holds the interpreter's lock, and a batch of photographs takes long
        # enough for leases to run out where the event loop cannot renew them.
        body, headers = await asyncio.to_thread(self._request, batch)
        return await self._server.ask("POST", f"{self._model.path}:predict", content=body, headers=headers)

    def _request(self, batch: NDArray[Any]) -> tuple[bytes, dict[str, str]]:
        """Return body and headers of a predict call."""
        model, headers = self._model, {"Content-Type": "application/json"}
        body = encode(
            self._scaling.apply(batch),
            signature=model.signature,
            input_name=model.input_name,
            columnar=model.columnar,
        )
        if model.compressed and len(body) >= COMPRESSED_BYTES:
            return gzip.compress(body, compresslevel=1), headers | {"Content-Encoding": "gzip"}
        return body, headers


def open_model(settings: Settings) -> TFServing:
    """Open the configured one.

    Raises StartError where the address cannot be one.
    """
    url, timeout_s = settings.tf_serving_url, settings.model_timeout_s
    return TFServing(
        ModelServer(url, setting="MICROBATCH_TF_SERVING_URL", timeout_s=timeout_s),
        Served(
            name=settings.tf_serving_name,
            version=settings.tf_serving_version,
            label=settings.tf_serving_label,
            signature=settings.tf_serving_signature,
            input_name=settings.tf_serving_input,
            columnar=settings.tf_serving_format == "columnar",
            compressed=settings.tf_serving_gzip,
        ),
        Choice.of(settings),
        max_batch_size=settings.max_batch_size,
    )
