"""A process that keeps TensorFlow Serving's REST contract quirks and error texts included (see tf_serving_contract.py).

    python -m tests.tf_serving_server --port 0     prints its port on the first line

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
    picture_bytes  string -> its bytes backwards, as an output whose name ends in `_bytes` comes
    open         float, (any, any, 3) -> one float a row; any_rank: not even that is declared
    fixed        `sum` for batches of exactly one
    small_memory  `sum`, but no memory for more than two rows
    kserve       `sum` as KServe serves it: it says only that it is ready, and has no metadata

Labels: `stable` is version 3, `next` version 4.

Models that misbehave, all of them `sum` beside:

    fail-N       every predict answers status N with a JSON error
    html-N       the same, as a proxy would: not JSON
    slow-S       answers after S seconds; drip-S: one byte at a time over S seconds
    stuck-S      answers after S seconds where a row holds 255
    loading-K    LOADING for the first K status calls
    cut, drop    ends the connection in the middle of the answer, before the answer
    stale        ends the connection before the answer to its second request
    few, garbage one prediction too few; 200 and not JSON

`GET /control/last` tells of the last predict call: path, body, headers, and the connections opened for predicts.
"""

from __future__ import annotations

import gzip
import re
from urllib.parse import unquote

from tests.model_server import Connection, Refusal, serve
from tests.tf_serving_contract import LABELS, MODELS, SUM, VERSIONS, Model, metadata, predict

PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<verb>/metadata|:predict)?"
)
MISBEHAVING = re.compile(r"(?:fail|html|slow|stuck|drip|loading)-[\d.]+|cut|drop|stale|few|garbage")


def read_path(path: str) -> tuple[str, str | None, str | None]:
    """Return name, version and verb."""
    found = PATH.fullmatch(path)
    if found is None:
        missing = path.rstrip("/") == "/v1/models"
        raise Refusal(400, "Missing model name in request." if missing else f"Malformed request: {path}")
    label = found["label"] and unquote(found["label"])
    if label is not None and label not in LABELS:
        raise Refusal(404, f"Unrecognized servable version label: {label}")
    return unquote(found["name"]), LABELS[label] if label else found["version"], found["verb"]


class TFServingConnection(Connection):
    """One kept connection."""

    def route(self, content: bytes) -> None:
        """Find the model and the verb."""
        if self.headers["Content-Encoding"] == "gzip":
            content = gzip.decompress(content)
        self.serve(*read_path(self.path), content)

    def serve(self, name: str, version: str | None, verb: str | None, content: bytes) -> None:
        """Answer for one model."""
        model = SUM if MISBEHAVING.fullmatch(name) else MODELS.get(name)
        if verb is None and name == "kserve":
            self.answer(200, {"name": name, "ready": True})
        elif verb is None:
            self.answer(200, {"model_version_status": self.status(name, model, version)})
        elif model is None or VERSIONS.get(version or "3") != "AVAILABLE":
            wanted = f"Specific({name}, {version})" if version else f"Latest({name})"
            raise Refusal(404, f"Servable not found for request: {wanted}")
        elif verb == "/metadata":
            if not model.has_metadata:
                raise Refusal(404, "Not Found")
            self.answer(200, metadata(name, model))
        else:
            self.note(content)
            self.misbehave(name.replace("stuck", "slow") if b"255" in content else name, b'{"predictions": [')
            if not self.close_connection:
                answer = predict(model, content)
                if name == "few":
                    answer = {kind: list(rows)[1:] for kind, rows in answer.items()}
                self.answer(200, answer)

    def status(self, name: str, model: Model | None, version: str | None) -> list[dict[str, object]]:
        """Return the state of each version asked for."""
        if model is None:
            raise Refusal(404, f"Could not find any versions of model {name}")
        if version is not None and version not in VERSIONS:
            raise Refusal(404, f"Could not find version {version} of model {name}")
        states = VERSIONS | ({"3": "LOADING"} if self.is_loading(name) else {})
        return [
            {"version": number, "state": state, "status": {"error_code": "OK", "error_message": ""}}
            for number, state in states.items()
            if version in (None, number)
        ]


if __name__ == "__main__":
    serve(TFServingConnection)
