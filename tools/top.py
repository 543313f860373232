"""The queue and its batchers live in a terminal: `python -m tools.top [model] [--interval 0.5] [--once]`.

It shows the last second of a model's queue at REDIS_URL, of several models the default one's. It ends on q or Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import termios
import tty
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from itertools import islice

from rich.console import Console, RenderableType
from rich.live import Live

from config import Settings
from errors import RedisAway, StartError
from jobs import JobQueue
from model_set import choose, load_models
from overview import Overview, Watch
from tools.board import away, board

HISTORY_S = 10.0
"""Batches are counted by their size over so long a time."""
ONCE_S = 1.5
"""How long `--once` looks: rates are between two looks, and a batcher speaks once a second."""
LEAST_S = 0.1
INTERRUPTED = 130
"""What a shell says of a command that Ctrl-C ended."""


class Top:
    """Makes a picture of each look at the queue; sound: whether the last one found Redis."""

    def __init__(self, settings: Settings, *, interval_s: float) -> None:
        self._name = settings.queue_name
        self._interval_s = interval_s
        self._queue = JobQueue(settings.redis_url, name=self._name, timeout_s=settings.redis_timeout_s)
        self._watch = Watch(worker_timeout_s=settings.worker_timeout_s)
        self._seen: deque[Overview] = deque()
        self.sound = True

    async def pictures(self) -> AsyncGenerator[RenderableType, None]:
        """Look again and again."""
        try:
            while True:
                yield await self._look()
                await asyncio.sleep(self._interval_s)
        finally:
            await self._queue.close()

    async def _look(self) -> RenderableType:
        try:
            now = self._watch.see(await self._queue.look())
        except RedisAway as exc:
            self.sound = False
            return away(self._name, f"Redis is away: {exc.__cause__ or exc}")
        self.sound = True
        self._seen.append(now)
        while now.time - self._seen[0].time > HISTORY_S or self._seen[0].time > now.time:
            self._seen.popleft()
        sizes = Counter[str]()
        for one in islice(self._seen, 1, None):
            sizes.update(one.batch_sizes)
        return board(self._name, now, sizes, span_s=now.time - self._seen[0].time)


async def show_once(top: Top, console: Console) -> int:
    """Print one picture; return 1 where Redis is away."""
    end_s = asyncio.get_running_loop().time() + ONCE_S
    async with aclosing(top.pictures()) as pictures:
        async for picture in pictures:
            if not top.sound or asyncio.get_running_loop().time() >= end_s:
                console.print(picture)
                break
    return 0 if top.sound else 1


async def show(top: Top, console: Console) -> int:
    """Show picture after picture until somebody has had enough."""
    enough = asyncio.Event()
    with _asked(enough), Live(console=console, screen=True, auto_refresh=False) as live:
        showing = asyncio.create_task(_show_all(top, live))
        asked = asyncio.create_task(enough.wait())
        await asyncio.wait({showing, asked}, return_when=asyncio.FIRST_COMPLETED)
        for task in (showing, asked):
            task.cancel()
        await asyncio.wait({showing, asked})
    return 0 if showing.cancelled() else showing.result()


async def _show_all(top: Top, live: Live) -> int:
    async with aclosing(top.pictures()) as pictures:
        async for picture in pictures:
            live.update(picture, refresh=True)
    return 0


@contextmanager
def _asked(enough: asyncio.Event) -> Iterator[None]:
    """Set the event on q, Ctrl-C and SIGTERM; what is typed is not shown meanwhile."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, enough.set)
    if not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)

    def read() -> None:
        if os.read(keyboard, 1) in b"qQ":  # also where the terminal is gone: then it is empty
            enough.set()

    loop.add_reader(keyboard, read)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Show the queue and its batchers live; q ends it.")
    parser.add_argument("model", nargs="?", help="one of MICROBATCH_MODELS; without it the first of them")
    parser.add_argument("--interval", type=seconds, default=0.5, metavar="S", help="seconds between two looks")
    parser.add_argument("--once", action="store_true", help="print how it stands and exit: 1 where Redis is away")
    return parser.parse_args()


def seconds(text: str) -> float:
    """Read an interval; argparse names this function where it is no number."""
    interval_s = float(text)
    if not LEAST_S <= interval_s <= HISTORY_S:
        raise argparse.ArgumentTypeError(f"from {LEAST_S} to {HISTORY_S:g}")
    return interval_s


def main() -> int:
    """Return the exit code; where nobody can watch, the output being no terminal, it is as `--once`."""
    options = _options()
    console = Console(highlight=False)
    try:
        top = Top(choose(load_models(), options.model), interval_s=options.interval)
        return asyncio.run((show_once if options.once or not console.is_terminal else show)(top, console))
    except StartError as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while --once looks
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
