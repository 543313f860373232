"""Run a batcher or an api that strikes itself down at one point of its work.

    python -m tests.crashing <method> before|after <count> <signal> <module> [argument...]

The method is one of JobQueue's. Its calls are counted, of `claim` after the call only those that were given jobs; at
the one that is meant the process sends the signal to itself: SIGKILL to die, SIGSTOP to stand still until continued.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import runpy
import signal
import sys
from typing import Any

from errors import ModelUnavailable
from jobs import JobQueue
from records import Claim

LINGER_S = 0.05
"""Before a call that never comes: what the process was about to tell others still gets out."""


class Raises:
    """A model that fails on every image."""

    input_shape = (32, 32, 3)

    def warm_up(self) -> None:
        """Be ready."""

    def predict(self, _batch: object) -> list[object]:
        raise ValueError("it always does")


class Away(Raises):
    """A model whose server does not answer."""

    def predict(self, _batch: object) -> list[object]:
        raise ModelUnavailable("it is never there")


def arm(method: str, moment: str, count: int, number: signal.Signals) -> None:
    """Put the strike around a method of JobQueue."""
    original = getattr(JobQueue, method)
    calls = itertools.count(1)

    async def armed(queue: JobQueue, *arguments: Any, **named: Any) -> Any:
        if moment == "before" and next(calls) == count:
            await asyncio.sleep(LINGER_S)
            os.kill(os.getpid(), number)
        reply = await original(queue, *arguments, **named)
        gave_nothing = isinstance(reply, Claim) and not reply.jobs
        if moment == "after" and not gave_nothing and next(calls) == count:
            os.kill(os.getpid(), number)
        return reply

    setattr(JobQueue, method, armed)


if __name__ == "__main__":
    method, moment, count, number, *sys.argv = sys.argv[1:]
    arm(method, moment, int(count), signal.Signals[number])
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
