"""The clients of model servers against servers that others wrote: `make test-peers`."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.parts import Started
from bench.peers.catalogue import PEERS
from bench.peers.environments import made, prepare
from errors import ModelFailed, StartError
from inputs import ModelInput
from models.choice import Choice
from models.open_inference import OpenInference
from models.open_inference import Served as InferenceModel
from models.remote import RemoteModel
from models.server import ModelServer
from models.tf_serving import Served, TFServing
from tools.service import free_port

HERE = Path(__file__).parent
SHAPE = (4, 4, 3)

pytestmark = pytest.mark.peer


@contextmanager
def running(python: Path, script: str, ready: str) -> Iterator[str]:
    """Run a server of another project; yield its address once a path of it answers 200."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Started() as started, (HERE / "servers.log").open("ab") as log:
        process = started.start(script, [str(python), str(HERE / script), str(port)], {}, log=log)
        _wait(process, url + ready)
        yield url


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        assert process.poll() is None
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"{url} was not ready")


@pytest.fixture(scope="module")
def kserve() -> Iterator[str]:
    python = made("KServe", HERE / "kserve.txt", base="python3.11")
    with running(python, "kserve_server.py", "/v2/models/sum/ready") as url:
        yield url


@pytest.fixture(scope="module")
def triton() -> Iterator[str]:
    (peer,) = (peer for peer in PEERS if peer.key == "pytriton")
    with running(prepare(peer), "triton_server.py", "/v2/models/sum/ready") as url:
        yield url


def over_v1(url: str, shape: tuple[int, ...] | None = SHAPE, **served: Any) -> RemoteModel:
    server = ModelServer(url, setting="URL", timeout_s=10)
    return RemoteModel(server, TFServing(Served("sum", **served), Choice("peer", shape=shape)), max_batch_size=8)


def over_v2(url: str, shape: tuple[int, ...] | None = None, *, most: int = 8, **served: Any) -> RemoteModel:
    server = ModelServer(url, setting="URL", timeout_s=10)
    dialect = OpenInference(InferenceModel("sum", **served), Choice("peer", shape=shape))
    return RemoteModel(server, dialect, max_batch_size=most)


def pictures(count: int) -> NDArray[np.uint8]:
    return np.ones((count, *SHAPE), np.uint8) * np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)


async def test_kserve_is_served_over_the_protocol_of_tf_serving(kserve: str) -> None:
    model = over_v1(kserve)

    await model.warm_up()
    predictions = await model.predict(pictures(3))
    await model.close()

    assert predictions == [0.0, 48.0, 96.0]


async def test_kserve_has_no_metadata_in_that_protocol_so_the_shape_must_be_said(kserve: str) -> None:
    model = over_v1(kserve, shape=None)

    with pytest.raises(StartError, match="MICROBATCH_INPUT_SHAPE"):
        await model.warm_up()
    await model.close()


@pytest.mark.parametrize("binary", ["auto", "on", "off"])
async def test_kserve_is_served_over_the_open_inference_protocol(kserve: str, binary: str) -> None:
    model = over_v2(kserve, binary=binary)

    await model.warm_up()
    predictions = await model.predict(pictures(3))
    await model.close()

    assert predictions == [0.0, 48.0, 96.0]
    assert model.takes == ModelInput(SHAPE)


@pytest.mark.parametrize("binary", ["auto", "on", "off"])
async def test_triton_is_served_and_several_outputs_are_an_object_a_row(triton: str, binary: str) -> None:
    model = over_v2(triton, binary=binary)

    await model.warm_up()
    predictions = await model.predict(pictures(3))
    await model.close()

    assert predictions == [{"total": [48 * number], "company": [3]} for number in range(3)]
    assert model.takes == ModelInput(SHAPE)


async def test_a_batch_over_triton_s_limit_stops_the_start_and_fails_where_it_is_sent(triton: str) -> None:
    model, larger = over_v2(triton), over_v2(triton, most=17)

    with pytest.raises(StartError, match="MAX_BATCH_SIZE=17"):
        await larger.warm_up()
    await model.warm_up()
    with pytest.raises(ModelFailed):
        await model.predict(pictures(17))
    await model.close()
    await larger.close()


async def test_a_shape_that_triton_s_model_does_not_take_stops_the_start(triton: str) -> None:
    model = over_v2(triton, shape=(5, 5, 3))

    with pytest.raises(StartError, match=r"INPUT_SHAPE=5,5,3: does not fit .* input is image, uint8 \[4, 4, 3\]"):
        await model.warm_up()
    await model.close()
