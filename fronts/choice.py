"""Which front a path belongs to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Scope

from access import begin
from asgi import Answer, Incoming
from errors import ServiceError
from fronts import open_inference, tf_serving
from fronts.failures import answered
from services import Services


@dataclass(frozen=True, slots=True)
class Front:
    """The paths of another server: what serves them, and how it words a refusal.

    route: of its predictions, as traces name it.
    """

    prefix: str
    route: str
    serve: Callable[[Services, Incoming, str, str], Awaitable[Answer]]
    refusal: Callable[[ServiceError], Answer]

    async def answer(self, services: Services, incoming: Incoming, method: str, path: str) -> Answer:
        """Answer one request; those that may ask for predictions are traced."""
        if method == "POST" and services.tracing is not None:
            begin(services.tracing, incoming, self.route)
        return await answered(incoming, self.serve(services, incoming, method, path), self.refusal)


FRONTS = (
    Front(tf_serving.PREFIX, tf_serving.ROUTE, tf_serving.serve, tf_serving.refusal),
    Front(open_inference.PREFIX, open_inference.ROUTE, open_inference.serve, open_inference.refusal),
)


def front_of(path: str) -> Front | None:
    """Return the front that a path belongs to; None: it is our own."""
    return next((front for front in FRONTS if path == front.prefix or path.startswith(f"{front.prefix}/")), None)


def path_of(scope: Scope) -> str:
    """Return the path without what a server puts before it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
