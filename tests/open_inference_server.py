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

import json
import re
from urllib.parse import unquote

from tests.model_server import Connection, Refusal, serve
from tests.open_inference_contract import MODELS, STYLES, SUM, Model, Style, metadata, predict, write

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


class InferenceConnection(Connection):
    """One kept connection."""

    def route(self, content: bytes) -> None:
        """Find the model and the verb."""
        found = PATH.fullmatch(self.path)
        if found is None:
            raise Refusal(404, "Not Found")
        style = STYLES[found["style"] or "triton"]
        if found["name"] is None:
            self.describe(style)
        else:
            self.serve(unquote(found["name"]), found["version"], found["verb"], content, style)

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
        ready = not self.is_loading(name)
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
        self.misbehave(name, b'{"outputs": [')
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


if __name__ == "__main__":
    serve(InferenceConnection)
