"""Run the whole service on this machine: `python -m tools.run --batchers 2 --port 8080`, or `make run`.

Starts a private Redis (unless REDIS_URL is set), the batchers and the api, keeps them running, and stops them in
the order in which no request is lost. A second Ctrl-C stops at once.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from errors import StartError
from model_set import load_models
from tools.processes import say
from tools.service import FIRST_CHOICE, LAST_PORT, LocalService, check_port

PATIENCE_S = 10.0  # after this, say what a service that is not ready lacks
LOOK_EVERY_S = 0.1
ECHO_S = 0.5  # a SIGTERM within this is the first once more: make passes on what the whole group has received
SAMPLE = "examples/seven.png"


def main() -> int:
    """Run until a signal says stop; return 0 when everything ended by itself."""
    options = _options()
    signals = _catch_signals()
    try:
        models = load_models()
        check_port(options.host, options.port)
        service = LocalService(models, batchers=options.batchers, host=options.host, port=options.port)
        return _run(service, signals)
    except StartError as exc:
        say(str(exc))
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the service on this machine.")
    parser.add_argument("--batchers", type=_whole_number(0, 64), default=1, help="a model; 0: they run elsewhere")
    parser.add_argument("--host", default="127.0.0.1", help="the address that the api listens on")
    parser.add_argument("--port", type=_whole_number(1, LAST_PORT), default=FIRST_CHOICE, help="and its port")
    return parser.parse_args()


def _whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of numbers in a range."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} to {most}")
        return int(text)

    return read


def _run(service: LocalService, signals: SimpleQueue[int]) -> int:
    """Start, say when it is ready, wait for a signal, stop."""
    try:
        service.start()
        _watch(service, signals)
    finally:
        clean = service.stop(hurried=_once_more(signals))
    return 0 if clean else 1


def _catch_signals() -> SimpleQueue[int]:
    """Return the queue of the signals that come: the one kind of put that is safe inside a handler."""
    signals: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup stays in force
            signal.signal(number, lambda caught, _: signals.put(caught))
    return signals


def _watch(service: LocalService, signals: SimpleQueue[int]) -> None:
    """Wait for a signal; until the service is ready, look whether it is, and say so."""
    started, announced, said = time.monotonic(), False, ""
    while not _came(signals, timeout_s=1.0 if announced else LOOK_EVERY_S):
        if announced:
            continue
        state = service.health()
        if state.ready:
            _announce(service)
            announced = True
        elif time.monotonic() - started > PATIENCE_S and state.missing != said:
            say(f"not ready yet: {state.missing}")
            said = state.missing
        if not announced and (name := service.cannot_start()):
            raise StartError(f"{name} cannot start; it says why above")


def _once_more(signals: SimpleQueue[int]) -> Callable[[], bool]:
    """Return a look whether another signal has come since now, echoes left out."""
    since_s, hurried = time.monotonic(), False

    def came() -> bool:
        nonlocal hurried
        with suppress(Empty):
            while not hurried:
                hurried = signals.get_nowait() == signal.SIGINT or time.monotonic() - since_s > ECHO_S
        return hurried

    return came


def _came(signals: SimpleQueue[int], timeout_s: float) -> bool:
    """Wait for a signal and take it; return whether one came."""
    try:
        number = signals.get(timeout=timeout_s)
    except Empty:
        return False
    say(f"stopping ({signal.Signals(number).name}); Ctrl-C again stops at once")
    return True


def _announce(service: LocalService) -> None:
    url, models = service.url, service.models if len(service.models) > 1 else ()
    with suppress(OSError):
        print(
            f"ready:   {url}",
            f"docs:    {url}/docs",
            f"try:     curl --data-binary @{SAMPLE} -H 'Content-Type: image/png' {url}/predict",
            *(f"model:   {url}/predict/{model}" for model in models),
            sep="\n",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
