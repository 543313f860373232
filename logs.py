"""The log: one line an event on stderr, for people on a terminal, else as JSON; uvicorn's loggers go the same way."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Any, Literal

import orjson

LogFormat = Literal["auto", "human", "json"]

MOST_IDS = 32
"""How many UUIDs one line names."""
NOISY = ("httpx", "urllib3", "PIL", "python_multipart")
"""Loggers of libraries that tell of every call they make, or of what is in an image."""

_NOT_FIELDS = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "color_message"})


def set_up_logging(level: str, form: LogFormat, **of_process: str) -> None:
    """Send every logger's lines to stderr.

    of_process: fields that each line of JSON has.
    """
    human = form == "human" or (form == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(HumanFormatter() if human else JsonFormatter(of_process))
    handler.setLevel(level.upper())  # uvicorn's loggers have levels of their own
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_the_end
    _join_uvicorn()
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def ids(uuids: Iterable[str]) -> list[str]:
    """Return the UUIDs that a line names: the first ones."""
    return list(islice(uuids, MOST_IDS))


class HumanFormatter(logging.Formatter):
    """Local time, level, logger and event, then the fields; a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line."""
        when = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}.{record.msecs:03.0f}"
        event = "\\n".join(record.message.splitlines())
        fields = "".join(f" {name}={_short(value)}" for name, value in _fields(record).items())
        return f"{when} {record.levelname:<7} {record.name}: {event}{fields}"


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `logger`, `event`, then the fields, and `exception` where there is one."""

    def __init__(self, of_process: dict[str, str]) -> None:
        super().__init__()
        self._of_process = of_process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **self._of_process,
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # text that is no Unicode, a number of more than 64 bits
            return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _NOT_FIELDS}


def _short(value: object) -> object:
    """Return a value as people read it; text with blanks or line ends in it in quotes."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value) if isinstance(value, str) and not (value.isprintable() and " " not in value) else value


def _join_uvicorn() -> None:
    """Have uvicorn's lines written once, as all others; it logs no requests, since the api does."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"


def _log_the_end(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger("process").critical("ended by %s", kind.__name__, exc_info=(kind, exc, trace))
