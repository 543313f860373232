"""Triton with a model of sums, on 127.0.0.1: `triton_server.py <port>`; for nvidia-pytriton's environment."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


@batch  # type: ignore[untyped-decorator]  # pytriton has no types here
def sums(image: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the sum of each of (n, 4, 4, 3) uint8 images, and how many there were."""
    totals = image.reshape(len(image), -1).sum(axis=1, dtype=np.int64, keepdims=True)
    return {"total": totals, "company": np.full_like(totals, len(image))}


def main() -> None:
    """Serve until told to stop."""
    port = int(sys.argv[1])
    with Triton(
        config=TritonConfig(http_address="127.0.0.1", http_port=port, allow_grpc=False, allow_metrics=False)
    ) as triton:
        triton.bind(
            model_name="sum",
            infer_func=sums,
            inputs=[Tensor(name="image", dtype=np.uint8, shape=(4, 4, 3))],
            outputs=[
                Tensor(name="total", dtype=np.int64, shape=(1,)),
                Tensor(name="company", dtype=np.int64, shape=(1,)),
            ],
            config=ModelConfig(max_batch_size=16),
        )
        triton.serve()


if __name__ == "__main__":
    main()
