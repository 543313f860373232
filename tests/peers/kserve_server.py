"""KServe's model server with a model of sums, over both of its protocols, on 127.0.0.1: `kserve_server.py <port>`.

It runs in KServe's environment. Its own start would listen on all addresses.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer


class Sum(Model):  # type: ignore[misc]  # KServe has no types here
    """Sums of (4, 4, 3) tensors."""

    def __init__(self) -> None:
        super().__init__("sum")
        self.ready = True

    async def get_input_types(self) -> list[dict[str, object]]:
        """Declare the input."""
        return [{"name": "input", "datatype": "FP32", "shape": [-1, 4, 4, 3]}]

    async def get_output_types(self) -> list[dict[str, object]]:
        """Declare the output."""
        return [{"name": "output", "datatype": "FP64", "shape": [-1]}]

    async def predict(self, payload: Any, *_: object) -> Any:
        """Answer in the protocol of the request; what is over 1,000 is refused."""
        is_v2 = isinstance(payload, InferRequest)
        batch = payload.inputs[0].as_numpy() if is_v2 else np.asarray(payload["instances"], np.float64)
        sums = batch.reshape(len(batch), -1).sum(axis=1).astype(np.float64)
        if not is_v2:
            return {"predictions": sums.tolist()}
        output = InferOutput("output", list(sums.shape), "FP64")
        output.set_data_from_numpy(sums, binary_data=payload.use_binary_outputs)
        return InferResponse(payload.id, "sum", [output], use_binary_outputs=payload.use_binary_outputs)


def main() -> None:
    """Serve until told to stop."""
    models = ModelRepository()
    models.update(Sum())
    server = RESTServer(
        "kserve.model_server:app", DataPlane(model_registry=models), ModelRepositoryExtension(models), int(sys.argv[1])
    )
    server.config.host = "127.0.0.1"
    server.run()


if __name__ == "__main__":
    main()
