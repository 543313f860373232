"""Serve with LitServe: as many api servers as workers, which is what its documentation recommends.

fast_queue (ZeroMQ) as recommended above 100 requests a second. batch_timeout=0 takes what is there: of 0, 2 and 10 ms
it answered most, with one client and with 64. It then polls without pause, as its processor time shows. The body comes
raw, instead of as JSON.
"""

from typing import Annotated

from fastapi import Body, Response
from litserve import LitAPI, LitServer

from bench.peers.work import load, options


class Model(LitAPI):
    """The work on a batch, in a process of its own."""

    def setup(self, device: str) -> None:
        """Load the model."""
        del device
        self._work = load(options().workload)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """Take a body as it is."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Leave a batch a list."""
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        """Answer a batch."""
        return self._work(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Leave the answers a list."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """Send an answer as it is."""
        return Response(output, media_type="application/json")


def main() -> None:
    """Serve until told to stop."""
    wanted = options()
    model = Model(max_batch_size=wanted.batch, batch_timeout=0.0, api_path="/predict")
    server = LitServer(model, accelerator="cpu", devices=1, workers_per_device=wanted.workers, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=wanted.port,
        num_api_servers=wanted.workers,
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
