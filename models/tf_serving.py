"""A model behind TensorFlow Serving's REST API, called in row format: one `instances` element a job."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from config import Settings
from errors import ModelUnavailable, StartError
from inputs import ModelInput
from models.choice import Choice
from models.scaling import Scaling
from models.server import ModelServer, error_of, load_json, nonsense, own_text

_OK = 200
_STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")
_NEVER_FITS = (400, 413, 501)


class TFServing:
    """A model client, see model_client.py; contract: TensorFlow Serving's api_rest.md."""

    in_process = False

    def __init__(
        self,
        *,
        url: str,
        name: str,
        version: int | None,
        signature: str,
        timeout_s: float,
        takes: ModelInput,
        scaling: Scaling,
    ) -> None:
        """Store what to call; nothing is connected.

        Raises StartError where the address cannot be one.
        """
        self.takes = takes
        self._name = name
        self._version = version
        self._path = f"v1/models/{quote(name, safe='')}" + ("" if version is None else f"/versions/{version}")
        self._signature = signature
        self._scaling = scaling
        self._server = ModelServer(url, setting="MICROBATCH_TF_SERVING_URL", timeout_s=timeout_s)

    async def warm_up(self) -> None:
        """Ask whether the model is there, without waiting for it, then predict one blank tensor.

        Raises ModelUnavailable where the model is not there yet, StartError where it does not take such a tensor.
        """
        await self._check_available()
        if self.takes.accepts == "encoded":
            return  # there is no blank image file that every model would take
        response = await self._post(np.zeros((1, *self.takes.shape), self.takes.dtype))
        if response.status_code in _NEVER_FITS:
            raise StartError(
                f"the model {self._name} does not take a {self.takes.dtype} tensor of shape {self.takes.shape}: "
                f"TF-Serving answered {response.status_code}: {own_text(response)}"
            )
        if response.status_code != _OK:
            raise ModelUnavailable(f"waiting for the model {self._name}: {error_of(response).message}")
        _predictions(response, 1)

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch in one call, see ModelClient; predictions may hold NaN and infinite floats."""
        response = await self._post(batch)
        if response.status_code != _OK:
            raise error_of(response)
        return _predictions(response, len(batch))

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def _check_available(self) -> None:
        """Ask the status endpoint; its path names the requested version, else it tells of all."""
        response = await self._server.ask("GET", self._path)
        version = "" if self._version is None else f" version {self._version}"
        waiting = f"waiting for the model {self._name}{version}: "
        if response.status_code != _OK:
            raise ModelUnavailable(waiting + error_of(response).message)
        states = _states(response)
        if "AVAILABLE" not in states.values():
            found = ", ".join(f"version {number} is {state}" for number, state in states.items())
            raise ModelUnavailable(waiting + (found or "no version is known"))

    async def _post(self, batch: NDArray[Any]) -> httpx.Response:
        # In a thread, row by row: encoding holds the interpreter's lock, and a batch of photographs takes long
        # enough for leases to run out where the event loop cannot renew them.
        body = await asyncio.to_thread(self._encode, batch)
        headers = {"Content-Type": "application/json"}
        return await self._server.ask("POST", f"{self._path}:predict", content=body, headers=headers)

    def _encode(self, batch: NDArray[Any]) -> bytes:
        """Return the request body of a batch."""
        rows = map(_binary_json, batch) if batch.dtype == object else map(_tensor_json, self._plain(batch))
        return b'{"signature_name":%b,"instances":[%b]}' % (orjson.dumps(self._signature), b",".join(rows))

    def _plain(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Scale, and bring to what orjson encodes: C order, native bytes, at most 64 bits; no copy where it is so."""
        scaled = self._scaling.apply(batch)
        too_wide = scaled.dtype.itemsize > np.dtype(np.float64).itemsize
        return np.ascontiguousarray(scaled, np.float64 if too_wide else scaled.dtype.newbyteorder("="))


def _tensor_json(row: NDArray[Any]) -> bytes:
    """Encode one tensor; integers stay integers, and what is not finite gets the tokens that TF-Serving reads."""
    text = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    if row.dtype.kind != "f" or np.isfinite(row).all():
        return text
    lost = (json.dumps(float(value)).encode() for value in row[~np.isfinite(row)])
    return re.sub(b"null", lambda _: next(lost), text)  # orjson writes each of them as null, in the same order


def _binary_json(image: bytes) -> bytes:
    return b'{"b64":"%b"}' % base64.b64encode(image)


def _states(response: httpx.Response) -> dict[str, str]:
    """Read the state of each version; the version is text there."""
    try:
        entries = orjson.loads(response.content)["model_version_status"]
        states = {str(int(entry["version"])): str(entry["state"]) for entry in entries}
    except (ValueError, KeyError, TypeError) as exc:
        raise nonsense(response) from exc
    return {version: state if state in _STATES else "UNKNOWN" for version, state in states.items()}


def _predictions(response: httpx.Response, count: int) -> list[object]:
    """Read one prediction a row."""
    try:
        predictions = load_json(response.content)["predictions"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise nonsense(response) from exc
    if not isinstance(predictions, list) or len(predictions) != count:
        raise nonsense(response)
    return predictions


def open_model(settings: Settings) -> TFServing:
    """Open the configured one.

    Raises StartError where the address cannot be one or its input is not known.
    """
    choice = Choice.of(settings)
    return TFServing(
        url=settings.tf_serving_url,
        name=settings.tf_serving_name,
        version=settings.tf_serving_version,
        signature=settings.tf_serving_signature,
        timeout_s=settings.model_timeout_s,
        takes=choice.over(None),
        scaling=choice.scaling,
    )
