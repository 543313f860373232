"""How long the chaos tests run: a bounded form in the suite, the whole of it under `make chaos`.

Whatever is random starts from SEED, which is printed with a failure: `SEED=1234 make chaos` does the same again.
"""

from __future__ import annotations

import os
import random

LONG = os.environ.get("CHAOS") == "long"
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))


def times(bounded: int, long: int) -> int:
    """Return how often something is done."""
    return long if LONG else bounded
