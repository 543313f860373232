"""Serve with Triton through nvidia-pytriton: a Python model, its dynamic batcher without delay, on HTTP alone.

The body comes raw, as Triton's extension for binary tensors has it. One instance of the model a worker; they are
threads of one process, which is how pytriton binds more than one. No gRPC, no metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.peers.work import load, options


def instance(workload: str) -> Callable[[list[Any]], list[dict[str, Any]]]:
    """Return a model of its own: requests with `body` (1, 1) of bytes → `answer` of the same shape."""
    work = load(workload)

    def infer(requests: list[Any]) -> list[dict[str, Any]]:
        answers = work([bytes(request["body"][0, 0]) for request in requests])
        return [{"answer": np.array([[answer]], dtype=np.bytes_)} for answer in answers]

    return infer


def main() -> None:
    """Serve until told to stop."""
    wanted = options()
    config = TritonConfig(
        http_address="127.0.0.1", http_port=wanted.port, allow_grpc=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="work",
            infer_func=[instance(wanted.workload) for _ in range(wanted.workers)],
            inputs=[Tensor(name="body", dtype=np.bytes_, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=np.bytes_, shape=(1,))],
            config=ModelConfig(max_batch_size=wanted.batch, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    main()
