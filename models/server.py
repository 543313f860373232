"""A model server over HTTP: connections, time limits, and what its answers mean for a batch."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

import httpx
import orjson

from errors import BatchTooLarge, ModelFailed, ModelUnavailable, ServiceError, StartError, tells_of_no_memory
from inputs import ModelInput

OK = 200
CONNECT_TIMEOUT_S = 2.0
IDLE_CONNECTION_S = 30.0
LONGER_S = 0.25
"""How much later than the time limit of a call a silent server is given up here: the batcher's own limit comes first,
since of a call that is cut it can tell whether the server or an image is to blame."""
LOGGED_CHARACTERS = 300

_LOST_CONNECTION = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)

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
_MAY_LACK_MEMORY = (429, 500, 503)
_QUOTED = re.compile(r"JSON (?:value|object): .*?(?= Type: | not | found | must | to |$)", re.IGNORECASE)

log = logging.getLogger(__name__)


class ModelServer:
    """One model server; its connections are kept and shared by all calls."""

    def __init__(self, url: str, *, setting: str, timeout_s: float) -> None:
        """Store where it is; nothing is connected.

        Raises StartError, naming the setting, where the address cannot be one.
        """
        self._timeout_s = timeout_s + LONGER_S
        self._http = _open_http(url, setting, self._timeout_s)

    async def ask(
        self, method: str, path: str, *, content: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a request and read the answer, whatever its status, within the time limit.

        Raises ModelUnavailable where there is none.
        """
        request = self._http.build_request(method, path, content=content, headers=headers)
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._send_again_if_lost(request)
                await response.aread()
        except (TimeoutError, httpx.HTTPError) as exc:
            log.warning("the model server does not answer", extra={"reason": repr(exc)})
            raise ModelUnavailable("the model server does not answer; try again") from exc
        return response

    async def ask_about(self, model: object, path: str, allowed: Container[int] = ()) -> httpx.Response:
        """Ask something of a model that is not known yet to be there.

        allowed: statuses that say something beside 200. Raises ModelUnavailable on any other.
        """
        response = await self.ask("GET", path)
        if response.status_code != OK and response.status_code not in allowed:
            raise waiting_for(model, error_of(response).message)
        return response

    async def _send_again_if_lost(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and once more where the connection ends before the first byte of an answer.

        A kept connection may have been closed by the server just as it was picked; a predict is safe to repeat.
        """
        try:
            return await self._http.send(request, stream=True)
        except _LOST_CONNECTION:
            return await self._http.send(request, stream=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _open_http(url: str, setting: str, timeout_s: float) -> httpx.AsyncClient:
    """Make the connection pool; environment variables for proxies are not for a neighbouring model server."""
    try:
        base_url = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise StartError(f"{setting}={url}: {exc}") from exc
    if not base_url.host:
        raise StartError(f"{setting}={url}: names no host")
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
        limits=httpx.Limits(keepalive_expiry=IDLE_CONNECTION_S),
        trust_env=False,
    )


def error_of(response: httpx.Response) -> ServiceError:
    """Log what the server said, and say the same in safe words."""
    log.warning("the model server refused", extra={"status": response.status_code, "reason": own_text(response)})
    if response.status_code in _MAY_LACK_MEMORY and tells_of_no_memory(own_text(response)):
        return BatchTooLarge("the model server has no memory for this")
    kind, message = _ANSWERS.get(response.status_code, _NONSENSE)
    return kind(message)


def waiting_for(model: object, reason: str) -> ModelUnavailable:
    """Return the error of a model that is not there yet."""
    return ModelUnavailable(f"waiting for the model {model}: {reason}")


@contextmanager
def understood(response: httpx.Response) -> Iterator[None]:
    """Read an answer; a ValueError says that it makes no sense.

    Raises ModelUnavailable then.
    """
    try:
        yield
    except ValueError as exc:
        # Predictions are payloads: only the size is logged.
        told = {"status": response.status_code, "bytes": len(response.content)}
        log.warning("the model server answered nonsense", extra=told)
        raise _NONSENSE[0](_NONSENSE[1]) from exc


def own_text(response: httpx.Response) -> str:
    """Return the server's error text on one line, without the values that it quotes from the request.

    A proxy in front may answer something that is not JSON.
    """
    try:
        text = str(orjson.loads(response.content)["error"])
    except (ValueError, KeyError, TypeError):
        text = response.content[: 4 * LOGGED_CHARACTERS].decode(errors="replace")
    return _QUOTED.sub("JSON value", " ".join(text.split()))[:LOGGED_CHARACTERS]


def check_tried_out(response: httpx.Response, *, model: object, takes: ModelInput, count: int) -> None:
    """Look at the answer to a blank batch.

    Raises StartError where the model does not take such a batch, ModelUnavailable where it cannot be told yet.
    """
    if response.status_code in _NEVER_FITS:
        said = f"its server answered {response.status_code}: {own_text(response)}"
        if count > 1:
            raise StartError(f"MICROBATCH_MAX_BATCH_SIZE={count}: the model {model} does not take it: {said}")
        raise StartError(f"the model {model} does not take a {takes.dtype} tensor of shape {takes.shape}: {said}")
    if not response.is_success:
        raise waiting_for(model, error_of(response).message)
