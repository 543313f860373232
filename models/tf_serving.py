"""A model behind TensorFlow Serving's REST API, called in row format: one `instances` element a job."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from errors import ModelFailed, ModelUnavailable, ServiceError, StartError
from inputs import ModelInput
from models.scaling import Scaling

CONNECT_TIMEOUT_S = 2.0
IDLE_CONNECTION_S = 30.0
LOGGED_CHARACTERS = 300

_OK = 200
_LOST_CONNECTION = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
_STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")

# What a status says of the batch, in words for clients: the server's own text may name hosts and paths.
_REFUSED = ModelFailed, "the model refused this input; check its shape and values"
_FAILED = ModelFailed, "the model failed on this input"
_FORBIDDEN = ModelUnavailable, "the model server does not let this service in"
_BUSY = ModelUnavailable, "the model server is busy or loading its model; try again"
_SLOW = ModelUnavailable, "the model server took too long; try again"
_NONSENSE = ModelUnavailable, "the model server gave an answer that makes no sense"
_ANSWERS: dict[int, tuple[type[ServiceError], str]] = {
    400: _REFUSED,
    401: _FORBIDDEN,
    403: _FORBIDDEN,
    404: (ModelUnavailable, "the model server does not have the model"),
    409: _BUSY,
    413: _REFUSED,  # a proxy's limit on bodies: half the batch may pass, so it is split like one refused for its inputs
    429: _BUSY,
    499: _SLOW,
    500: _FAILED,
    501: _FAILED,
    503: _BUSY,
    504: _SLOW,
}
_NEVER_FITS = (400, 413, 501)
_QUOTED = re.compile(r"JSON (?:value|object): .*?(?= Type: | not | found | must | to |$)", re.IGNORECASE)

logger = logging.getLogger(__name__)


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
        self._timeout_s = timeout_s
        self._scaling = scaling
        self._http = _open_http(url, timeout_s)

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
                f"TF-Serving answered {response.status_code}: {_own_text(response)}"
            )
        if response.status_code != _OK:
            raise ModelUnavailable(f"waiting for the model {self._name}: {_error_of(response).message}")
        _predictions(response, 1)

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch in one call, see ModelClient; predictions may hold NaN and infinite floats."""
        response = await self._post(batch)
        if response.status_code != _OK:
            raise _error_of(response)
        return _predictions(response, len(batch))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _check_available(self) -> None:
        """Ask the status endpoint; its path names the requested version, else it tells of all."""
        response = await self._send(self._http.build_request("GET", self._path))
        version = "" if self._version is None else f" version {self._version}"
        waiting = f"waiting for the model {self._name}{version}: "
        if response.status_code != _OK:
            raise ModelUnavailable(waiting + _error_of(response).message)
        states = _states(response)
        if "AVAILABLE" not in states.values():
            found = ", ".join(f"version {number} is {state}" for number, state in states.items())
            raise ModelUnavailable(waiting + (found or "no version is known"))

    async def _post(self, batch: NDArray[Any]) -> httpx.Response:
        # In a thread, row by row: encoding holds the interpreter's lock, and a batch of photographs takes long
        # enough for leases to run out where the event loop cannot renew them.
        body = await asyncio.to_thread(self._encode, batch)
        headers = {"Content-Type": "application/json"}
        return await self._send(
            self._http.build_request("POST", f"{self._path}:predict", content=body, headers=headers)
        )

    def _encode(self, batch: NDArray[Any]) -> bytes:
        """Return the request body of a batch."""
        rows = map(_binary_json, batch) if batch.dtype == object else map(_tensor_json, self._plain(batch))
        return b'{"signature_name":%b,"instances":[%b]}' % (orjson.dumps(self._signature), b",".join(rows))

    def _plain(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Scale, and bring to what orjson encodes: C order, native bytes, at most 64 bits; no copy where it is so."""
        scaled = self._scaling.apply(batch)
        too_wide = scaled.dtype.itemsize > np.dtype(np.float64).itemsize
        return np.ascontiguousarray(scaled, np.float64 if too_wide else scaled.dtype.newbyteorder("="))

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Send a request and read the answer, within the time limit."""
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._send_again_if_lost(request)
                await response.aread()
        except (TimeoutError, httpx.HTTPError) as exc:
            logger.warning("model server does not answer: %r", exc)
            raise ModelUnavailable("the model server does not answer; try again") from exc
        return response

    async def _send_again_if_lost(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and once more where the connection ends before the first byte of an answer.

        A kept connection may have been closed by the server just as it was picked; a predict is safe to repeat.
        """
        try:
            return await self._http.send(request, stream=True)
        except _LOST_CONNECTION:
            return await self._http.send(request, stream=True)


def _open_http(url: str, timeout_s: float) -> httpx.AsyncClient:
    """Make the connection pool; environment variables for proxies are not for a neighbouring model server."""
    try:
        base_url = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise StartError(f"MICROBATCH_TF_SERVING_URL={url}: {exc}") from exc
    if not base_url.host:
        raise StartError(f"MICROBATCH_TF_SERVING_URL={url}: names no host")
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
        limits=httpx.Limits(keepalive_expiry=IDLE_CONNECTION_S),
        trust_env=False,
    )


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
        raise _nonsense(response) from exc
    return {version: state if state in _STATES else "UNKNOWN" for version, state in states.items()}


def _predictions(response: httpx.Response, count: int) -> list[object]:
    """Read one prediction a row."""
    try:
        predictions = _loads(response.content)["predictions"]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise _nonsense(response) from exc
    if not isinstance(predictions, list) or len(predictions) != count:
        raise _nonsense(response)
    return predictions


def _loads(body: bytes) -> Any:
    """Read JSON, and TF-Serving's NaN and Infinity, which orjson refuses; only those pay for the slow reader."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" in body or b"Infinity" in body:
            return json.loads(body)
        raise


def _error_of(response: httpx.Response) -> ServiceError:
    """Log what the server said, and say the same in safe words."""
    logger.warning("model server answered %d: %s", response.status_code, _own_text(response))
    kind, message = _ANSWERS.get(response.status_code, _NONSENSE)
    return kind(message)


def _nonsense(response: httpx.Response) -> ServiceError:
    # Predictions are payloads: only the size is logged.
    logger.warning("model server answered %d with nonsense, bytes=%d", response.status_code, len(response.content))
    return _NONSENSE[0](_NONSENSE[1])


def _own_text(response: httpx.Response) -> str:
    """Return the server's error text on one line, without the values that it quotes from the request.

    A proxy in front may answer something that is not JSON.
    """
    try:
        text = str(orjson.loads(response.content)["error"])
    except (ValueError, KeyError, TypeError):
        text = response.content[: 4 * LOGGED_CHARACTERS].decode(errors="replace")
    return _QUOTED.sub("JSON value", " ".join(text.split()))[:LOGGED_CHARACTERS]
