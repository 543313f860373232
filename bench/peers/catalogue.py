"""Who the peers are, and how a request to each looks. What each is set to, and why, says its server's docstring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench import workloads
from bench.workloads import SEED, Workload

FOLDER = Path(__file__).parent
FREE_PORT = "a free port"
"""The value of a variable that is to name a port on which nobody listens."""
FEW, MANY = 8, 32


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure beside ours.

    key: of its files, `<key>_server.py` and `<key>.txt`. batches: the most requests in one model call of tensors.
    python: to make its environment with, where not any will do. environment: of its processes.
    may_pause: whether its processes can be stopped and go on.
    """

    key: str
    name: str
    batches: tuple[int, ...] = (MANY,)
    path: str = "/predict"
    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    needs_redis: bool = False
    may_pause: bool = True

    @property
    def pins(self) -> Path:
        """The file of what is installed for it."""
        return FOLDER / f"{self.key}.txt"

    @property
    def version(self) -> str:
        """What is pinned of the peer itself: the first line of its pins."""
        return self.pins.read_text().split("\n", 1)[0].partition("==")[2]


PEERS = (
    Peer("mosec", "Mosec", batches=(MANY, FEW)),
    Peer("litserve", "LitServe"),
    Peer("batched", "batched"),
    Peer("bentoml", "BentoML", environment={"BENTOML_DO_NOT_TRACK": "True"}),
    Peer(
        "ray",
        "Ray Serve",
        environment={
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_METRICS_PORT": FREE_PORT,
            "RAY_SERVE_HAPROXY_STATS_PORT": FREE_PORT,
        },
    ),
    Peer("service_streamer", "service-streamer", needs_redis=True),
    Peer(
        "pytriton",
        "Triton",
        path="/v2/models/work/infer",
        headers={"Inference-Header-Content-Length": "0"},
        python="/usr/bin/python3.11",  # its backend is linked against the shared library of Debian's
        may_pause=False,  # its locks in shared memory throw when they find that time has passed
    ),
)


def workload(name: str, peer: Peer) -> Workload:
    """Return the same bodies that ours gets, a tensor as its bare bytes: every peer takes them as they are."""
    form = Workload("application/octet-stream", (tensor().tobytes(),), {})
    if name == "photos":
        form = workloads.photos()
    return replace(form, path=peer.path, headers=peer.headers)


def tensor() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the tensor that workloads.tensors sends."""
    return np.random.default_rng(SEED).integers(0, 256, (32, 32, 3), np.uint8)
