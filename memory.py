"""How the garbage collector runs in a process that serves."""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 100)
"""Of the three generations. A request leaves few cycles, but holds many objects that each collection would look at."""


def calm_collector() -> None:
    """Look no more at what was loaded at the start, and seldom at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
