"""Triton's own client against our front: `make test-peers`."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bench.peers.environments import made
from tests.stack import SEVEN, Stack, npy, until_ready
from tools.service import free_port

HERE = Path(__file__).parent
DRAWINGS = np.random.default_rng(1).integers(0, 256, (5, 8, 8), dtype=np.uint8)

pytestmark = pytest.mark.peer


def ask(port: int) -> dict[str, Any]:
    python = made("Triton's client", HERE / "triton_client.txt", base="python3.11")
    given = json.dumps({"images": DRAWINGS.tolist(), "file": base64.b64encode(SEVEN).decode()})
    command = [str(python), str(HERE / "triton_client.py"), f"127.0.0.1:{port}"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


async def test_tritons_client_is_answered_in_all_its_forms(stack: Stack) -> None:
    port = free_port()
    stack.start_redis()
    stack.start_batcher()
    stack.start_api_on(port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        await until_ready(client)
        headers = {"Content-Type": "application/x-npy"}
        own = [(await client.post("/predict", content=npy(one), headers=headers)).json() for one in DRAWINGS]

    found = ask(port)

    expected = {
        "label": [one["predictions"][0]["label"] for one in own],
        "scores": [one["predictions"][0]["scores"] for one in own],
        "id": "u1",
    }
    assert {name: answer for name, answer in found["infer"].items() if answer != expected} == {}
    assert found["file"]["label"] == [7]
    assert (found["live"], found["ready"], found["model ready"], found["other ready"]) == (True, True, True, False)
    assert "binary_tensor_data" in found["server"]["extensions"]
    assert found["metadata"]["inputs"] == [{"name": "input", "datatype": "UINT8", "shape": [-1, 8, 8]}]
    assert found["config"]["max_batch_size"] == 64
    assert found["refused"] == "400"
