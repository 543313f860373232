"""A model behind a server: getting ready, and one call a batch, whatever the server speaks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

from inputs import ModelInput
from models.server import OK, ModelServer, check_tried_out, error_of, understood


@dataclass(frozen=True, slots=True)
class Call:
    """A POST that predicts a batch."""

    path: str
    body: bytes
    headers: dict[str, str]


class Dialect(Protocol):
    """One model in the words of its server.

    takes: known once learnt.
    """

    takes: ModelInput

    async def check_ready(self, server: ModelServer) -> None:
        """Ask whether the model is there, without waiting for it.

        Raises ModelUnavailable where it is not there yet, StartError where it never will be.
        """

    async def learn(self, server: ModelServer, sizes: Sequence[int]) -> None:
        """Ask what the model takes; a server that does not say leaves it to the settings.

        sizes: the sizes of batch that it will get; empty: any. Raises ModelUnavailable, or StartError where the model
        does not take what it would be sent.
        """

    def is_quick(self, batch: NDArray[Any]) -> bool:
        """Return whether the call is made sooner than a thread would wake for it."""

    def call(self, batch: NDArray[Any]) -> Call:
        """Return the call that predicts a batch."""

    def predictions(self, response: httpx.Response, count: int) -> Sequence[object]:
        """Return what a good answer says of so many images.

        Raises ValueError where it makes no sense.
        """


class RemoteModel:
    """A model client, see model_client.py; what it takes is only known once it is warm."""

    in_process = False
    process = None

    def __init__(self, server: ModelServer, dialect: Dialect, *, max_batch_size: int) -> None:
        self._server = server
        self._dialect = dialect
        self._max_batch_size = max_batch_size

    @property
    def takes(self) -> ModelInput:
        """What the model takes."""
        return self._dialect.takes

    async def warm_up(self, sizes: Sequence[int] = ()) -> None:
        """Ask whether the model is there, without waiting for it, and what it takes; predict blank batches.

        One blank tensor, then as many as a batch may have; or each of the sizes that there are. Raises
        ModelUnavailable where the model is not there yet, StartError where it does not take what it would be sent.
        """
        await self._dialect.check_ready(self._server)
        await self._dialect.learn(self._server, sizes or ((1,) if self._max_batch_size == 1 else ()))
        if self.takes.accepts == "encoded":
            return  # there is no blank image file that every model would take
        for count in sizes or sorted({1, self._max_batch_size}):
            await self._try_out(count)

    async def predict(self, batch: NDArray[Any]) -> Sequence[object]:
        """Predict a batch in one call, see ModelClient; predictions may be numpy values, or hold NaN."""
        response = await self._post(batch)
        if response.status_code != OK:
            raise error_of(response)
        with understood(response):
            return self._dialect.predictions(response, len(batch))

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def _try_out(self, count: int) -> None:
        """Predict a blank batch."""
        response = await self._post(np.zeros((count, *self.takes.shape), self.takes.dtype))
        check_tried_out(response, model=self._dialect, takes=self.takes, count=count)
        with understood(response):
            self._dialect.predictions(response, count)

    async def _post(self, batch: NDArray[Any]) -> httpx.Response:
        if self._dialect.is_quick(batch):
            call = self._dialect.call(batch)
        else:
            # A batch of photographs takes so long to encode that the event loop is to go on meanwhile; numbers hold the
            # interpreter's lock row by row only.
            call = await asyncio.to_thread(self._dialect.call, batch)
        return await self._server.ask("POST", call.path, content=call.body, headers=call.headers)
