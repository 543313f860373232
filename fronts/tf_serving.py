"""TensorFlow Serving's own REST paths, for its clients; contract: TensorFlow Serving's api_rest.md."""

from __future__ import annotations

import re

import numpy as np
import orjson

from answers import JSON, add_retry_after
from asgi import Answer, Incoming
from errors import BadRequest, MethodNotAllowed, NotFound, ServiceError, Unavailable
from fronts.instances import read
from fronts.named import VERSION, Named, find_served
from fronts.numbers import weigh
from fronts.whole import Reader, answer_whole
from inputs import ModelInput
from service import Service
from services import Services

PREFIX = "/v1"
ROUTE = "/v1/models/{name}:predict"
LABELS = ("stable",)
"""What the one version is called."""
SIGNATURE = "serving_default"
METHOD = "tensorflow/serving/predict"

_PATH = re.compile(
    rf"{PREFIX}/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<what>/metadata|:predict|:classify|:regress)?"
)
_STATUS = {408: 504, 415: 400, 422: 400, 502: 503}
"""Where its table of statuses has another one than ours."""
_DTYPES = {"bool": "DT_BOOL", "float16": "DT_HALF", "float32": "DT_FLOAT", "float64": "DT_DOUBLE"}


async def serve(services: Services, incoming: Incoming, method: str, path: str) -> Answer:
    """Answer one request below `/v1/models`.

    Raises ServiceError.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise NotFound(
            "no such path: GET /v1/models/{name}, its /metadata, and POST /v1/models/{name}:predict are served"
        )
    what = found["what"] or ""
    expected = "POST" if what.startswith(":") else "GET"
    if method != expected:
        answer = refusal(MethodNotAllowed(f"{path} is asked for by {expected}"))
        answer.add(b"allow", expected)
        return answer
    service = find_served(services, Named(found["name"], found["version"], found["label"]), labels=LABELS)
    if what == ":predict":
        incoming.count_in(service.metrics)
        return await _predict(service, incoming)
    if what:
        return _metadata(service) if what == "/metadata" else _no_examples()
    await service.readiness.refresh()
    return _status(service)


def refusal(error: ServiceError) -> Answer:
    """Return an error as TensorFlow Serving words it."""
    answer = Answer(_STATUS.get(error.http_status, error.http_status), orjson.dumps({"error": error.message}), JSON)
    answer.error = error
    add_retry_after(answer, error)
    return answer


async def _predict(service: Service, incoming: Incoming) -> Answer:
    most, name = service.settings.max_images_per_request, service.settings.served_input
    return await answer_whole(
        service,
        incoming,
        Reader(
            weigh=lambda body, takes: weigh(body, takes, most),
            read=lambda body, takes: read(body, takes, input_name=name, signature=SIGNATURE, max_rows=most),
        ),
    )


def _no_examples() -> Answer:
    raise BadRequest("this model has no signature of classification or regression; use :predict")


def _status(service: Service) -> Answer:
    """Return the state of the one version: available as soon as a request would be served."""
    try:
        service.readiness.require_model()
        state, status = "AVAILABLE", {"error_code": "OK", "error_message": ""}
    except Unavailable as exc:
        state = "UNLOADING" if service.readiness.stopping else "LOADING"
        status = {"error_code": "UNAVAILABLE", "error_message": exc.message}
    versions = [{"version": VERSION, "state": state, "status": status}]
    return Answer(200, orjson.dumps({"model_version_status": versions}), JSON)


def _metadata(service: Service) -> Answer:
    """Return the signature of the model: one input; what it predicts is not known before."""
    signature = {
        "inputs": {service.settings.served_input: _tensor(service.readiness.require())},
        "outputs": {},
        "method_name": METHOD,
    }
    body = {
        "model_spec": {"name": service.settings.served_name, "signature_name": "", "version": VERSION},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }
    return Answer(200, orjson.dumps(body), JSON)


def _tensor(takes: ModelInput) -> dict[str, object]:
    encoded = takes.accepts == "encoded"
    sides = (-1,) if encoded else (-1, *takes.shape)
    dtype = np.dtype(takes.dtype).name
    return {
        "dtype": "DT_STRING" if encoded else _DTYPES.get(dtype, f"DT_{dtype.upper()}"),
        "tensor_shape": {"dim": [{"size": str(side), "name": ""} for side in sides], "unknown_rank": False},
        "name": f"{SIGNATURE}_input:0",
    }
