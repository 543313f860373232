"""How memory is managed in a process that serves: when it is looked through for garbage, and when it is given back."""

from __future__ import annotations

import ctypes
import gc

THRESHOLDS = (50_000, 20, 100)
"""Of the three generations. A request leaves few cycles, but holds many objects that each collection would look at."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
LARGE_BYTES = 256 * 1024
KEPT_BYTES = 16 * 1024 * 1024


def calm_collector() -> None:
    """Look no more at what was loaded at the start, and seldom at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def give_back_large_blocks() -> None:
    """Have each large block mapped by itself, so that freeing it gives it back to the system at once.

    By itself glibc moves that border up to 32 MB: bodies and images then share a heap whose holes stay, and a process
    takes twice what it holds. Of the heap for small blocks as much is kept as serving them in turn frees and takes.
    Other C libraries have no such switch, and no such border.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    set_option(_MMAP_THRESHOLD, LARGE_BYTES)
    set_option(_TRIM_THRESHOLD, KEPT_BYTES)
