"""The Open Inference Protocol V2 over HTTP, for the clients of Triton, KServe and their like.

Contract: kserve/open-inference-protocol, inference_rest.md; Triton's binary tensor data and model configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from answers import JSON, add_retry_after
from asgi import Answer, Incoming
from errors import MethodNotAllowed, NotFound, ServiceError
from fronts.inference import Call, datatype, read, weigh
from fronts.named import VERSION, Named, find_served
from fronts.replies import write
from fronts.whole import Asked, Reader, answer_whole
from inputs import ModelInput
from models.tensors import HEADER_LENGTH
from service import Service
from services import Services

PREFIX = "/v2"
ROUTE = "/v2/models/{name}/infer"
EXTENSIONS = ("binary_tensor_data", "model_configuration")

_INFER = "/infer"
_PATH = re.compile(
    rf"{PREFIX}(?:/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<what>/ready|/config|{_INFER})?"
    r"|(?P<health>/health/live|/health/ready)?)"
)
_STATUS = {408: 400, 415: 400, 422: 400, 429: 503, 502: 503, 504: 503}
"""Where Triton's table of statuses has another one than ours."""


async def serve(services: Services, incoming: Incoming, method: str, path: str) -> Answer:
    """Answer one request below `/v2`.

    Raises ServiceError.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise NotFound("no such path: /v2, /v2/health/ready, /v2/models/{name} and its /infer are served")
    expected = "POST" if found["what"] == _INFER else "GET"
    if method != expected:
        answer = refusal(MethodNotAllowed(f"{path} is asked for by {expected}"))
        answer.add(b"allow", expected)
        return answer
    if path.endswith("/ready"):
        await services.refresh()
    if found["name"] is None:
        return _SERVER[found["health"] or ""](services)
    service = find_served(services, Named(found["name"], found["version"]))
    if found["what"] == _INFER:
        incoming.count_in(service.metrics)
        return await _infer(service, incoming)
    return _MODEL[found["what"] or ""](service)


def refusal(error: ServiceError) -> Answer:
    """Return an error as Triton words it."""
    answer = Answer(_STATUS.get(error.http_status, error.http_status), orjson.dumps({"error": error.message}), JSON)
    answer.error = error
    add_retry_after(answer, error)
    return answer


async def _infer(service: Service, incoming: Incoming) -> Answer:
    call = Call(
        model=service.settings.served_name,
        version=VERSION,
        input_name=service.settings.served_input,
        header_length=incoming.headers.get(HEADER_LENGTH.lower()),
        max_rows=service.settings.max_images_per_request,
    )

    accept_encoding = incoming.headers.get("accept-encoding", "")

    def asked(body: bytes, takes: ModelInput) -> Asked:
        rows, wanted = read(call, body, takes)
        return Asked(rows, lambda predictions: write(wanted, predictions, accept_encoding=accept_encoding))

    return await answer_whole(service, incoming, Reader(lambda body, takes: weigh(call, body, takes), asked))


def _json(values: dict[str, object]) -> Answer:
    return Answer(200, orjson.dumps(values), JSON)


def _server(_: Services) -> Answer:
    return _json({"name": "model-micro-batching-api", "version": VERSION, "extensions": EXTENSIONS})


def _live(_: Services) -> Answer:
    return _json({"live": True})


def _all_ready(services: Services) -> Answer:
    services.require_models()
    return _json({"ready": True})


def _ready(service: Service) -> Answer:
    service.readiness.require_model()
    return _json({"ready": True})


def _metadata(service: Service) -> Answer:
    """Return what the model takes; what it predicts is not known before."""
    takes = service.readiness.require()
    shape = (-1, 1) if takes.accepts == "encoded" else (-1, *takes.shape)
    one = {"name": service.settings.served_input, "datatype": datatype(takes), "shape": shape}
    return _json(
        {
            "name": service.settings.served_name,
            "versions": [VERSION],
            "platform": "",
            "inputs": [one],
            "outputs": [],
        }
    )


def _config(service: Service) -> Answer:
    """Return the least of Triton's model configuration that its tools need: how many images a request may have."""
    return _json(
        {
            "name": service.settings.served_name,
            "platform": "",
            "max_batch_size": service.settings.max_images_per_request,
            "dynamic_batching": {},
        }
    )


_SERVER: dict[str, Callable[[Services], Answer]] = {"": _server, "/health/live": _live, "/health/ready": _all_ready}
_MODEL: dict[str, Callable[[Service], Answer]] = {"": _metadata, "/ready": _ready, "/config": _config}
