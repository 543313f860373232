"""The process of a model that is the user's own code: `python -m models.child <socket> <which>`, by its batcher.

which: JSON with what the settings of this model say of it, `model` and `scaling`, and `parent`, the batcher's process.

It serves one call after the other until the batcher closes the socket or dies; where it dies within a call, so does
this process. Signals are the batcher's business: a
Ctrl-C that reaches both must not cut the last batch.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from io import BufferedRWPair

import numpy as np
import orjson

from config import load_settings
from errors import ModelFailed, StartError, tame, text_of
from logs import set_up_logging
from model_client import NO_LIST
from models.frames import HEAD, Frame, of_error, of_predictions, read_batch
from models.own_code import OwnCode, find
from models.parent import end_with_parent
from models.scaling import Scaling

log = logging.getLogger("model")


def main() -> int:
    """Open the model and serve; return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    settings = load_settings()
    set_up_logging(settings.log_level, settings.log_format)
    which = orjson.loads(sys.argv[2])
    scaling = Scaling(**which["scaling"])
    with socket.socket(fileno=int(sys.argv[1])) as link, link.makefile("rwb") as stream:
        end_with_parent(which["parent"], link)
        try:
            code = find(which["model"])
        except StartError as exc:
            _write(stream, Frame.of(start_error=text_of(exc)))
            return 1
        declared = code.declared.to_dict() if code.declared else None
        _write(stream, Frame.of(declared=declared, has_warm_up=code.warm_up is not None))
        while (frame := read_frame(stream)) is not None:
            _write(stream, _answer(code, scaling, frame))
            del frame  # or its batch would be kept until the next one has been read
        if code.close is not None:
            code.close()
    return 0


def _answer(code: OwnCode, scaling: Scaling, frame: Frame) -> Frame:
    """Do what a call asks for; whatever the model raises is the answer."""
    try:
        if frame.read()["call"] == "warm_up" and code.warm_up is not None:
            code.warm_up()
            return Frame.of()
        rows = code.predict(scaling.apply(read_batch(frame)))
        if isinstance(rows, np.ndarray):
            rows = list(np.ascontiguousarray(rows))  # or orjson would refuse them
        if not isinstance(rows, list | tuple):
            raise ModelFailed(NO_LIST)  # noqa: TRY301  # as whatever else the model does wrong
        return of_predictions(list(rows))
    except BaseException as exc:  # what would end more than this call, as a panic of a Rust library
        log.warning("a call failed", extra={"bytes": len(frame.body)}, exc_info=tame(exc))
        return of_error(exc)


def _write(stream: BufferedRWPair, frame: Frame) -> None:
    stream.writelines(frame.pieces())
    stream.flush()


def read_frame(stream: BufferedRWPair) -> Frame | None:
    """Return the next call; None where the batcher is gone. Its body is writable, as a model's batch is everywhere."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    words_bytes, body_bytes = HEAD.unpack(head)
    words, body = stream.read(words_bytes), bytearray(body_bytes)
    if len(words) < words_bytes or stream.readinto(body) < body_bytes:
        return None
    return Frame(words, body)


if __name__ == "__main__":
    sys.exit(main())
