"""Image files decoded on several threads, for whoever has the time: api processes and batchers alike."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from os import cpu_count
from typing import Any, TypeVar

from numpy.typing import NDArray

import images
from budget import DecodingRoom
from errors import ServiceError, without_frames
from inputs import ModelInput

Done = TypeVar("Done")
Reserve = Callable[[int], None]


class Threads:
    """The threads that a process decodes on, for however many models.

    count: 0: one a core. room: what they may take of the process's memory; None: whatever it takes.
    """

    def __init__(self, count: int, room: DecodingRoom | None = None) -> None:
        self._room = room
        self.count = count or cpu_count() or 1
        self.pool = ThreadPoolExecutor(self.count, thread_name_prefix="decode")

    def enter_room(self) -> AbstractContextManager[Reserve]:
        """Return the context in which a thread decodes one image, see DecodingRoom."""
        return self._room.enter() if self._room else nullcontext(lambda _size_bytes: None)

    def close(self) -> None:
        """End them."""
        self.pool.shutdown(wait=False, cancel_futures=True)


class Decoder:
    """Decodes and checks image files.

    formats, max_pixels: what is taken, see images.py.
    """

    def __init__(self, threads: Threads, *, formats: tuple[str, ...], max_pixels: int) -> None:
        images.load_formats()
        self._threads = threads
        self._formats = formats
        self._max_pixels = max_pixels

    async def decode(self, files: Sequence[bytes], takes: ModelInput) -> list[NDArray[Any] | ServiceError]:
        """Return each file's tensor as the model takes it, or what is wrong with the file."""

        def decoded(file: bytes, reserve: Reserve) -> NDArray[Any]:
            return images.decode(file, takes=takes, formats=self._formats, max_pixels=self._max_pixels, reserve=reserve)

        return await self._each(files, decoded)

    async def check(self, files: Sequence[bytes]) -> list[bytes | ServiceError]:
        """Return each file, looked through, or what is wrong with it."""

        def checked(file: bytes, reserve: Reserve) -> bytes:
            images.check(file, formats=self._formats, max_pixels=self._max_pixels, reserve=reserve)
            return file

        return await self._each(files, checked)

    def look(self, file: bytes) -> bytes | ServiceError:
        """Return a file that begins as an image does, or why it cannot be one; of the rest nothing is looked at."""
        try:
            images.require_format(file, self._formats)
        except ServiceError as exc:
            return exc
        return file

    async def _each(self, files: Sequence[bytes], work: Callable[[bytes, Reserve], Done]) -> list[Done | ServiceError]:
        """Do it with each file, in as many threads as it takes; what has not begun when cancelled is not begun."""
        todo = deque(enumerate(files))
        done: dict[int, Done | ServiceError] = {}

        def take_turns() -> None:
            while True:
                try:
                    place, file = todo.popleft()
                except IndexError:
                    return
                with self._threads.enter_room() as reserve:
                    done[place] = _attempt(work, file, reserve)

        run, pool = asyncio.get_running_loop().run_in_executor, self._threads.pool
        try:
            await asyncio.gather(*(run(pool, take_turns) for _ in range(min(self._threads.count, len(files)))))
        finally:
            todo.clear()
        return [done[place] for place in range(len(files))]


def _attempt(work: Callable[[bytes, Reserve], Done], file: bytes, reserve: Reserve) -> Done | ServiceError:
    try:
        return work(file, reserve)
    except ServiceError as exc:
        return without_frames(exc)  # which hold the image as far as it was decoded
