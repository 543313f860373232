"""A queue driven from plain functions: one call, one command, its reply; for tests that are no coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar
from uuid import uuid4

from redis.asyncio import Redis

from errors import ModelFailed
from jobs import JobQueue
from records import Claim, Job, Settlement, Submission, Timing, Worker, error_value, prediction_value
from tests.clock import let_pass
from tests.queue_model import BATCH_SIZE, MAX_SOLO, RETURNS

LONG_S, SHORT_S = 60.0, 0.002
"""No lease, deadline or result of the long kind ends in a test."""

Kind = Literal["ok", "error", "late", "dead", "release", "behind", "died"]
T = TypeVar("T")


class QueueDriver:
    """One event loop and one queue of its own.

    Where a reply is `lost`, the command is sent, and sent again: the caller sees the second reply only.
    """

    def __init__(self, url: str) -> None:
        self.name = uuid4().hex
        self._runner = asyncio.Runner()
        self._redis = Redis.from_url(url)
        self.queue = JobQueue(url, name=self.name, timeout_s=10)

    def do(self, command: Callable[[], Awaitable[T]], *, lost: bool = False) -> T:
        async def send() -> T:
            return await command()

        if lost:
            self._runner.run(send())
        return self._runner.run(send())

    def close(self) -> None:
        self.do(self.queue.close)
        self.do(self._redis.aclose)
        self._runner.close()

    def submit(
        self,
        jobs: tuple[Job, ...],
        *,
        kept: bool,
        late: bool,
        max_depth: int,
        max_results: int,
        batch_s: float,
        lost: bool,
    ) -> str:
        """Submit one request; where it is late, its deadline has passed when this returns."""
        request = Submission(jobs, 0.0 if late else LONG_S, kept=kept)
        _depth, admissions = self.do(
            lambda: self.queue.submit(
                [request],
                api_id="api",
                max_queue_depth=max_depth,
                max_results=max_results,
                max_batch_size=BATCH_SIZE,
                batch_s=batch_s,
            ),
            lost=lost,
        )
        if late:
            self.let_pass()
        return admissions[0].outcome

    def claim(
        self, claim_id: str, *, worker: str = "a", n: int = BATCH_SIZE, crash: bool = False, holding: bool = False
    ) -> Claim:
        """Claim; after a crash the lease has ended when this returns."""
        claim = self.do(
            lambda: self.queue.claim(
                claim_id,
                worker_id=worker,
                max_batch_size=n,
                lease_s=SHORT_S if crash else LONG_S,
                least_s=0.0,
                max_solo=MAX_SOLO,
                max_wait_s=0.0,
                block_s=0.0,
                holding=holding,
            )
        )
        if crash:
            self.let_pass()
        return claim

    def beat(self, claim_id: str, uuids: Sequence[str], *, crash: bool, lost: bool) -> list[bool]:
        worker = Worker("a", "busy", 0.0, None, 0.0, "digits")
        lease_s = SHORT_S if crash else LONG_S
        own = self.do(lambda: self.queue.beat(worker, lease_s=lease_s, held={claim_id: uuids}), lost=lost)
        if crash:
            self.let_pass()
        return own

    def settle(self, claim_id: str, kind: Kind, words: Mapping[str, str]) -> int:
        """Settle jobs, each with a word of its own: a prediction, an error's message, or a release's code."""
        settlements = [Settlement(uuid, "api", kind, _value(kind, word)) for uuid, word in words.items()]
        return self.do(lambda: self.queue.settle(claim_id, settlements, result_ttl_s=LONG_S))

    def drop(self, uuids: Sequence[str], *, lost: bool = False) -> None:
        self.do(lambda: self.queue.drop(uuids), lost=lost)

    def let_pass(self) -> None:
        self.do(lambda: let_pass(self._redis, SHORT_S))

    def keys_without_ttl(self) -> set[str]:
        names: list[Any] = self.do(lambda: self._redis.keys(f"{{mb:{self.name}}}:*"))
        return {name.decode().partition("}:")[2] for name in names if self._pttl(name) < 0}

    def _pttl(self, name: bytes) -> int:
        return int(self.do(lambda: self._redis.pttl(name)))


def _value(kind: Kind, word: str) -> bytes:
    if kind in RETURNS:
        return word.encode()
    return prediction_value(word, Timing()) if kind == "ok" else error_value(ModelFailed(word), Timing())
