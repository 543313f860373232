"""Ask a service what Triton's own client can ask, and print the answers as JSON: `triton_client.py <host:port>`.

It runs in the environment of that client. Standard input: `{"images": [[[...]]], "file": "<base64>"}`.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

FORMS: dict[str, dict[str, Any]] = {
    "json": {"binary": False, "outputs": False},
    "binary": {"binary": True, "outputs": True},
    "binary in": {"binary": True, "outputs": False},
    "binary out": {"binary": False, "outputs": True},
    "all outputs": {"binary": True, "outputs": None},
    "gzip": {"binary": True, "outputs": True, "compression": "gzip"},
    "deflate": {"binary": False, "outputs": False, "compression": "deflate"},
}


def asked(client: Any, tensor: Any, datatype: str, form: dict[str, Any]) -> dict[str, Any]:
    """Return label and scores of each row."""
    sent = triton.InferInput("input", list(tensor.shape), datatype)
    sent.set_data_from_numpy(tensor, binary_data=form["binary"])
    outputs = form["outputs"]
    names = [] if outputs is None else ["label", "scores"]
    answer = client.infer(
        "model",
        [sent],
        outputs=[triton.InferRequestedOutput(name, binary_data=outputs) for name in names] or None,
        request_id="u1",
        request_compression_algorithm=form.get("compression"),
        response_compression_algorithm=form.get("compression"),
    )
    found = {name: answer.as_numpy(name).tolist() for name in ("label", "scores")}
    return {**found, "id": answer.get_response()["id"]}


def refused(client: Any) -> str:
    """Return the status of a call that the model does not take."""
    try:
        asked(client, np.zeros((1, 9, 9), np.uint8), "UINT8", FORMS["binary"])
    except InferenceServerException as exc:
        return str(exc.status())
    return "answered"


def main() -> None:
    """Ask everything."""
    given = json.load(sys.stdin)
    images = np.array(given["images"], np.uint8)
    files = np.array([[base64.b64decode(given["file"])]], object)
    client = triton.InferenceServerClient(sys.argv[1])
    answers = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready("model"),
        "other ready": client.is_model_ready("other"),
        "server": client.get_server_metadata(),
        "metadata": client.get_model_metadata("model", "1"),
        "config": client.get_model_config("model"),
        "infer": {name: asked(client, images, "UINT8", form) for name, form in FORMS.items()},
        "file": asked(client, files, "BYTES", FORMS["binary"]),
        "refused": refused(client),
    }
    print(json.dumps(answers))  # noqa: T201  # for the test


if __name__ == "__main__":
    main()
