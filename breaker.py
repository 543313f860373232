"""What a batcher does when its model server is down: pause, retry within a budget, probe with one job. No I/O."""

from __future__ import annotations

import random

OPENS_AT = 5
"""Failed calls in a row after which the model counts as down."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
"""The pause after the first failed call doubles up to the longest; half of each is random, so that many batchers do
not come back at one moment (full jitter is Brooker's, "Exponential Backoff And Jitter", AWS, 2015)."""
RETRIES_PER_CALL, MOST_RETRIES = 0.2, 10.0
"""Each good call earns a fifth of a retry, up to ten: a server that fails often is asked at most a fifth more (the
figures are Finagle's retry budget)."""


class CircuitBreaker:
    """Counts the calls of one batcher that failed for want of the model server, not for their images.

    Closed: calls go out, a failed one is paused after. Open, after OPENS_AT in a row: one job at a time is tried, after
    each pause, until one call is answered.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._until_s = 0.0
        self._retries = MOST_RETRIES

    @property
    def is_open(self) -> bool:
        """Whether the model counts as down."""
        return self._failures >= OPENS_AT

    def pause_s(self, *, now_s: float) -> float:
        """Return how long to leave the model alone."""
        return max(0.0, self._until_s - now_s)

    def answered(self) -> None:
        """Note a call that the model answered, be it with an error for the images."""
        self._failures = 0
        self._retries = min(MOST_RETRIES, self._retries + RETRIES_PER_CALL)

    def failed(self, *, now_s: float) -> bool:
        """Note a call that the model did not answer; return whether its jobs may be tried again.

        While the breaker is open they may: what is tried then is one job after each pause, at no cost to the server.
        """
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._failures)
        self._until_s = now_s + pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
        self._failures += 1
        if self.is_open:
            return True
        if self._retries < 1:
            return False
        self._retries -= 1
        return True
