"""A process that keeps the Open Inference Protocol V2 as several servers do, their quirks and errors included.

    python -m tests.open_inference_server --port 0     prints its port on the first line

The same models under three addresses; open_inference_contract.py says what the models do:

    /         Triton: raw bytes are listed, health has no body, JSON data is flat, nearly every error is 400
    /kserve   KServe: raw bytes are taken but not listed, JSON data is nested, an `id` is needed, a version is 501
    /bare     a server with nothing but JSON: `GET /v2` is not there, raw bytes are refused
    /odd      Triton, but what it says of itself is no object

Models that misbehave, all of them `sum` for batches of zeros, such as a warm-up sends; `at-once-...` for those too:

    fail-N       every infer call answers status N with a JSON error; html-N: the same, as a proxy would
    slow-S       answers after S seconds; drip-S: one byte at a time over S seconds
    loading-K    not ready for the first K times that it is asked
    cut, drop    ends the connection in the middle of the answer, before the answer
    stale        ends the connection before the answer to its second request
    few          one prediction too few; garbage: 200 and not JSON
    long-header, bad-header, surplus, short    JSON longer than the body, of length "x", a byte too many, too few

`GET /control/last` tells of the last infer call: path, JSON, headers, and the connections opened for such calls.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from tests.open_inference_contract import MODELS, STYLES, SUM, Model, Refusal, Style, metadata, predict, write

PATH = re.compile(
    r"(?:/(?P<style>kserve|bare|odd))?/v2(?:/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?P<verb>/ready|/infer)?)?"
)
MISBEHAVING = re.compile(
    r"(?:at-once-)?(?:(?:fail|html|slow|drip|loading)-[\d.]+|cut|drop|stale|few|garbage|long-header|bad-header|surplus|short)"
)
HEADER_LENGTH = "Inference-Header-Content-Length"


def is_blank(header: bytes, raw: bytes) -> bool:
    """Return whether all numbers of a call are 0, as in those of a warm-up."""
    return not any(raw) and not any(any(tensor.get("data", ())) for tensor in json.loads(header)["inputs"])


class Server(ThreadingHTTPServer):
    """What outlives a connection."""

    def __init__(self, port: int) -> None:
        """Listen on a loopback port."""
        super().__init__(("127.0.0.1", port), Connection)
        self.ready_calls: Counter[str] = Counter()
        self.connections = 0
        self.last: dict[str, object] = {}


class Connection(BaseHTTPRequestHandler):
    """One kept connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    calls = 0
    requests = 0

    def do_GET(self) -> None:
        """Answer for the server, a model or a test."""
        if self.path == "/control/last":
            self.answer(200, {**self.server.last, "connections": self.server.connections})
        else:
            self.route(b"")

    def do_POST(self) -> None:
        """Answer infer calls."""
        self.route(self.rfile.read(int(self.headers["Content-Length"])))

    def route(self, content: bytes) -> None:
        """Find the model and the verb."""
        self.requests += 1
        found = PATH.fullmatch(self.path)
        if found is None:
            self.answer(404, {"error": "Not Found"})
            return
        try:
            style = STYLES[found["style"] or "triton"]
            if found["name"] is None:
                self.describe(style)
            else:
                self.serve(unquote(found["name"]), found["version"], found["verb"], content, style)
        except Refusal as refusal:
            self.answer(refusal.status, {"error": refusal.text})

    def describe(self, style: Style) -> None:
        """Say what the server can do."""
        if style.extensions is None:
            raise Refusal(404, "Not Found")
        whole = {"name": "test", "version": "1", "extensions": style.extensions}
        self.answer(200, [whole] if style is STYLES["odd"] else whole)

    def serve(self, name: str, version: str | None, verb: str | None, content: bytes, style: Style) -> None:
        """Answer for one model."""
        model = SUM if MISBEHAVING.fullmatch(name) else MODELS.get(name)
        if version and style.is_kserve:
            raise Refusal(501, "Model versioning not supported yet.")
        if model is None or version not in (None, "3"):
            unknown = f"Request for unknown model: '{name}' version {version} is not found"
            raise Refusal(404 if verb != "/ready" or style.has_bodies else 400, unknown)
        if verb == "/ready":
            self.be_ready(name, style)
        elif verb is None:
            self.answer(200, metadata(name, model))
        else:
            self.infer(name, model, content, style)

    def be_ready(self, name: str, style: Style) -> None:
        """Say by the status whether a model is ready; Triton has no body for it."""
        self.server.ready_calls[self.path] += 1
        kind, _, calls = name.partition("-")
        ready = not (kind == "loading" and self.server.ready_calls[self.path] <= int(calls))
        body = json.dumps({"name": name, "ready": ready}).encode() if style.has_bodies else b""
        self.send(200 if ready else style.unready, body, "application/json")

    def infer(self, name: str, model: Model, content: bytes, style: Style) -> None:
        """Answer an infer call, in the form that it asks for."""
        length = self.headers[HEADER_LENGTH]
        if length is not None and not style.binary:
            raise Refusal(400, "Expecting value: line 1 column 1 (char 0)")
        header = content if length is None else content[: int(length)]
        self.note(header)
        if not name.startswith("at-once-") and is_blank(header, content[len(header) :]):
            name = "sum" if MISBEHAVING.fullmatch(name) else name
        name = name.removeprefix("at-once-")
        self.misbehave(name)
        if self.close_connection:
            return
        if style.is_kserve and "id" not in json.loads(header):
            raise Refusal(500, "1 validation error for InferenceResponse: id Input should be a valid string")
        outputs = predict(model, header, content[len(header) :])
        if name == "few":
            outputs = {key: (datatype, values[1:]) for key, (datatype, values) in outputs.items()}
        binary = bool(json.loads(header).get("parameters", {}).get("binary_data_output"))
        answer, raw = write(outputs, style, binary=binary)
        self.reply(name, json.dumps(answer).encode(), raw, binary=binary)

    def reply(self, name: str, header: bytes, raw: bytes, *, binary: bool) -> None:
        """Send an answer, with the lengths wrong where the name of the model says so."""
        if not binary:
            self.send(200, header, "application/json")
            return
        raw = {"surplus": raw + b"x", "short": raw[:-1]}.get(name, raw)
        said = {"long-header": str(len(header + raw) + 1), "bad-header": "x"}.get(name, str(len(header)))
        self.send(200, header + raw, "application/octet-stream", more={HEADER_LENGTH: said})

    def note(self, header: bytes) -> None:
        """Remember the call for `/control/last`."""
        self.calls += 1
        self.server.connections += self.calls == 1
        self.server.last = {"path": self.path, "json": header.decode(), "headers": dict(self.headers)}

    def misbehave(self, name: str) -> None:
        """Do what the name of the model says, ending the connection where it must not go on."""
        kind, _, value = name.partition("-")
        if kind == "fail":
            raise Refusal(int(value), f"said by {self.server.server_address}: " + "x" * 1000)
        if kind == "html":
            self.send(int(value), b"<html>\n<h1>Bad Gateway</h1>\xff</html>", "text/html")
        elif kind == "garbage":
            self.send(200, b'{"outputs": [', "application/json")
        elif kind == "slow":
            time.sleep(float(value))
        elif kind == "drip":
            self.send(200, b" " * 100, "application/json", over_s=float(value))
        elif kind == "cut":
            self.send(200, b'{"outputs": [', "application/json", promised=1000)
        ends = kind in ("html", "garbage", "drip", "cut", "drop") or (kind == "stale" and self.requests > 1)
        self.close_connection = self.close_connection or ends

    def answer(self, status: int, body: object) -> None:
        """Send JSON; NaN and Infinity as bare tokens."""
        self.send(status, json.dumps(body).encode(), "application/json")

    def send(
        self,
        status: int,
        body: bytes,
        kind: str,
        *,
        promised: int = 0,
        over_s: float = 0,
        more: dict[str, str] | None = None,
    ) -> None:
        """Send an answer, also one that is slower or shorter than promised."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(promised or len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        pieces = [body[i : i + 1] for i in range(len(body))] if over_s else [body]
        for piece in pieces:
            self.wfile.write(piece)
            time.sleep(over_s / len(pieces))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Say nothing."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="Keep the Open Inference Protocol, for tests.")
    parser.add_argument("--port", type=int, default=0)
    with Server(parser.parse_args().port) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


if __name__ == "__main__":
    main()
