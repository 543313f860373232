"""Logging set-up."""

from __future__ import annotations

import logging
import sys


def set_up_logging(level: str) -> None:
    """Log one line an event to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every call to the model server
