"""A process that keeps TensorFlow Serving's REST contract in row format, quirks and error texts included.

    python tests/tf_serving_server.py --port 0     prints its port on the first line

Models (version 3 is AVAILABLE, version 4 LOADING; signatures `serving_default` and `other`):

    sum          float, (4, 4, 3) -> one float a row; at most 64 rows
    labels       int32, (4, 4) -> sum modulo 10
    mask         bool, (4, 4) -> how many are true
    half         half, (4, 4) -> 501, as REST has no such numbers
    encoded      string -> {"bytes": length}
    two_outputs  float, (2,) -> an object a row
    two_inputs   two float inputs: plain rows are refused
    nan          float, (2,) -> [NaN, Infinity, -Infinity] a row
    a b/c        `sum` under a name that has to be percent-encoded

Models that misbehave, all of them `sum` beside:

    fail-N       every predict answers status N with a JSON error
    html-N       the same, as a proxy would: not JSON
    slow-S       answers after S seconds; drip-S: one byte at a time over S seconds
    loading-K    LOADING for the first K status calls
    cut, drop    ends the connection in the middle of the answer, before the answer
    stale        ends the connection before the answer to its second request
    few, garbage one prediction too few; 200 and not JSON

`GET /control/last` tells of the last predict call: path, body, headers, and the connections opened for predicts.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

PATH = re.compile(r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+))?(?P<verb>/metadata|:predict)?")
MISBEHAVING = re.compile(r"(?:fail|html|slow|drip|loading)-[\d.]+|cut|drop|stale|few|garbage")
VERSIONS = {"3": "AVAILABLE", "4": "LOADING"}
SIGNATURES = ("serving_default", "other")


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        """Store status and text."""
        super().__init__(text)
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Model:
    """What a served model takes, and what it makes of one row."""

    dtype: str
    shape: tuple[int, ...]
    predict: Callable[[Any], object]
    inputs: tuple[str, ...] = ("input",)
    max_batch_size: int = 64


def flat(value: Any) -> Iterator[Any]:
    """Yield the numbers of nested lists."""
    if isinstance(value, list):
        for inner in value:
            yield from flat(inner)
    else:
        yield value


def total(row: Any) -> float:
    """Return the sum of a row as a float."""
    return float(sum(flat(row)))


SUM = Model("DT_FLOAT", (4, 4, 3), total)
MODELS = {
    "sum": SUM,
    "a b/c": SUM,
    "labels": Model("DT_INT32", (4, 4), lambda row: sum(flat(row)) % 10),
    "mask": Model("DT_BOOL", (4, 4), lambda row: sum(flat(row))),
    "half": Model("DT_HALF", (4, 4), total),
    "encoded": Model("DT_STRING", (), lambda image: {"bytes": len(image)}),
    "two_outputs": Model("DT_FLOAT", (2,), lambda row: {"total": total(row), "parts": row}),
    "two_inputs": Model("DT_FLOAT", (2,), total, inputs=("left", "right")),
    "nan": Model("DT_FLOAT", (2,), lambda _: [math.nan, math.inf, -math.inf]),
}


def shape_of(value: Any) -> list[int]:
    """Return the shape as the first elements have it."""
    return [len(value), *(shape_of(value[0]) if value else ())] if isinstance(value, list) else []


def fits(value: Any, dtype: str) -> bool:
    """Return whether a JSON value is of a type; booleans are no numbers, 1.0 is no integer."""
    if dtype == "DT_BOOL":
        return isinstance(value, bool)
    kinds = (int, float) if dtype == "DT_FLOAT" else (int,)
    return isinstance(value, kinds) and not isinstance(value, bool)


def decode(value: Any) -> bytes:
    """Read one string: a lone {"b64": …}, or UTF-8."""
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict) or list(value) != ["b64"]:
        raise ValueError(f"JSON Value: {json.dumps(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except binascii.Error:
        raise ValueError("Unable to base64 decode") from None


def read_row(row: Any, model: Model, first: list[int]) -> Any:
    """Check one row as json_tensor.cc does.

    Raises ValueError with its text.
    """
    if model.dtype == "DT_STRING":
        return decode(row)
    for value in flat(row):
        if not fits(value, model.dtype):
            kind = "Number" if isinstance(value, (int, float)) else type(value).__name__
            name = model.dtype.removeprefix("DT_").lower()
            raise ValueError(f"JSON Value: {json.dumps(value)} Type: {kind} is not of expected type: {name}")
    expected, got = math.prod(first), sum(1 for _ in flat(row))
    if expected != got:
        raise ValueError(f"Expecting tensor size: {expected} but got: {got}")
    return row


def read_instances(body: dict[str, Any], model: Model) -> list[Any]:
    """Check `instances` and return its rows."""
    rows = body.get("instances")
    if not isinstance(rows, list) or not rows:
        raise Refusal(400, "Request body must have a non-empty 'instances' list")
    if len(model.inputs) > 1 and not isinstance(rows[0], dict):
        raise Refusal(
            400,
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
        )
    if model.dtype == "DT_HALF":
        raise Refusal(501, "Conversion of JSON Value: 0.0 to type: half")
    checked = []
    for i, row in enumerate(rows):
        try:
            checked.append(read_row(row, model, shape_of(rows[0])))
        except ValueError as exc:
            text = f"Failed to process element: {i} of 'instances' list. Error: INVALID_ARGUMENT: {exc}"
            raise Refusal(400, text) from exc
    return checked


def predict(model: Model, content: bytes) -> list[object]:
    """Answer a predict call."""
    try:
        body = json.loads(content)
    except ValueError as exc:
        raise Refusal(400, "JSON Parse error: Invalid value. at offset: 0") from exc
    signature = body.get("signature_name", "serving_default")
    if signature not in SIGNATURES:
        raise Refusal(400, f'Serving signature name: "{signature}" not found in signature def')
    rows = read_instances(body, model)
    if len(rows) > model.max_batch_size:
        text = f"Task size {len(rows)} is larger than maximum input batch size {model.max_batch_size}"
        raise Refusal(400, text)
    if model.shape and tuple(shape_of(rows[0])) != model.shape:
        raise Refusal(400, f"input must have the shape {list(model.shape)}, got {shape_of(rows[0])}")
    return [model.predict(row) for row in rows]


def read_path(path: str) -> tuple[str, str | None, str | None]:
    """Return name, version and verb."""
    found = PATH.fullmatch(path)
    if found is None:
        missing = path.rstrip("/") == "/v1/models"
        raise Refusal(400, "Missing model name in request." if missing else f"Malformed request: {path}")
    return unquote(found["name"]), found["version"], found["verb"]


def metadata(name: str, model: Model) -> dict[str, object]:
    """Describe a model, with the doubled `signature_def` and sizes as text."""
    dims = [{"size": str(size), "name": ""} for size in (-1, *model.shape)]
    tensor = {"dtype": model.dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": "x:0"}
    signature = {
        "inputs": dict.fromkeys(model.inputs, tensor),
        "outputs": {"output": {"dtype": "DT_FLOAT", "name": "y:0"}},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": "3"},
        "metadata": {"signature_def": {"signature_def": dict.fromkeys(SIGNATURES, signature)}},
    }


class Server(ThreadingHTTPServer):
    """What outlives a connection."""

    def __init__(self, port: int) -> None:
        """Listen on a loopback port."""
        super().__init__(("127.0.0.1", port), Connection)
        self.status_calls: Counter[str] = Counter()
        self.connections = 0
        self.last: dict[str, object] = {}


class Connection(BaseHTTPRequestHandler):
    """One kept connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    predicts = 0
    requests = 0

    def do_GET(self) -> None:
        """Answer status, metadata and control calls."""
        if self.path == "/control/last":
            self.answer(200, {**self.server.last, "connections": self.server.connections})
        else:
            self.route(b"")

    def do_POST(self) -> None:
        """Answer predict calls."""
        self.route(self.rfile.read(int(self.headers["Content-Length"])))

    def route(self, content: bytes) -> None:
        """Find the model and the verb."""
        self.requests += 1
        try:
            self.serve(*read_path(self.path), content)
        except Refusal as refusal:
            self.answer(refusal.status, {"error": refusal.text})

    def serve(self, name: str, version: str | None, verb: str | None, content: bytes) -> None:
        """Answer for one model."""
        model = SUM if MISBEHAVING.fullmatch(name) else MODELS.get(name)
        if verb is None:
            self.answer(200, {"model_version_status": self.status(name, model, version)})
        elif model is None or VERSIONS.get(version or "3") != "AVAILABLE":
            wanted = f"Specific({name}, {version})" if version else f"Latest({name})"
            raise Refusal(404, f"Servable not found for request: {wanted}")
        elif verb == "/metadata":
            self.answer(200, metadata(name, model))
        else:
            self.note(content)
            self.misbehave(name)
            if not self.close_connection:
                self.answer(200, {"predictions": predict(model, content)[1 if name == "few" else 0 :]})

    def status(self, name: str, model: Model | None, version: str | None) -> list[dict[str, object]]:
        """Return the state of each version asked for."""
        if model is None:
            raise Refusal(404, f"Could not find any versions of model {name}")
        if version is not None and version not in VERSIONS:
            raise Refusal(404, f"Could not find version {version} of model {name}")
        self.server.status_calls[name] += 1
        kind, _, calls = name.partition("-")
        states = dict(VERSIONS)
        if kind == "loading" and self.server.status_calls[name] <= int(calls):
            states["3"] = "LOADING"
        return [
            {"version": number, "state": state, "status": {"error_code": "OK", "error_message": ""}}
            for number, state in states.items()
            if version in (None, number)
        ]

    def note(self, content: bytes) -> None:
        """Remember the call for `/control/last`."""
        self.predicts += 1
        self.server.connections += self.predicts == 1
        self.server.last = {"path": self.path, "body": content.decode(), "headers": dict(self.headers)}

    def misbehave(self, name: str) -> None:
        """Do what the name of the model says, ending the connection where it must not go on."""
        kind, _, value = name.partition("-")
        if kind == "fail":
            raise Refusal(int(value), f"said by {self.server.server_address}: " + "x" * 1000)
        if kind == "html":
            self.send(int(value), b"<html>\n<h1>Bad Gateway</h1>\xff</html>", "text/html")
        elif kind == "garbage":
            self.send(200, b'{"predictions": [', "application/json")
        elif kind == "slow":
            time.sleep(float(value))
        elif kind == "drip":
            self.send(200, b" " * 100, "application/json", over_s=float(value))
        elif kind == "cut":
            self.send(200, b'{"predictions": [', "application/json", promised=1000)
        ends = kind in ("html", "garbage", "drip", "cut", "drop") or (kind == "stale" and self.requests > 1)
        self.close_connection = self.close_connection or ends

    def answer(self, status: int, body: object) -> None:
        """Send JSON; NaN and Infinity as bare tokens."""
        self.send(status, json.dumps(body, indent=4).encode(), "application/json")

    def send(self, status: int, body: bytes, kind: str, *, promised: int = 0, over_s: float = 0) -> None:
        """Send an answer, also one that is slower or shorter than promised."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        pieces = [body[i : i + 1] for i in range(len(body))] if over_s else [body]
        for piece in pieces:
            self.wfile.write(piece)
            time.sleep(over_s / len(pieces))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Say nothing."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="Keep TensorFlow Serving's REST contract, for tests.")
    parser.add_argument("--port", type=int, default=0)
    with Server(parser.parse_args().port) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
