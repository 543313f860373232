"""The bare loop, without any service: our images.py and a model in plain processes, one a core.

    python -m bench.bare photos|wide|convolution <seconds>

It prints how many images it did, and the processor time they took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import images
from bench.models import Convolution, Small, Wide
from bench.parts import ONE_THREAD, ROOT, inherited
from bench.workloads import photos
from config import load_settings
from inputs import ModelInput

BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Bare:
    """What all processes of a bare loop did together."""

    images_per_s: float
    cpu_s_per_1000: float


def measure(what: str, *, processes: int, seconds: float) -> Bare:
    """Run it in so many processes at once."""
    command = [sys.executable, "-m", "bench.bare", what, str(seconds)]
    loops = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=inherited() | ONE_THREAD)  # noqa: S603  # our own
        for _ in range(processes)
    ]
    figures = [list(map(float, loop.communicate()[0].split())) for loop in loops]
    done, took_s, cpu_s = map(sum, zip(*figures, strict=True))
    return Bare(done / (took_s / processes), cpu_s / done * 1000)


def _photos() -> Callable[[], int]:
    bodies, model = photos().bodies, Small()
    takes, settings = ModelInput(model.input_shape), load_settings()

    def batch() -> int:
        tensors = [
            images.decode(body, takes=takes, formats=settings.image_formats, max_pixels=settings.max_pixels)
            for body in bodies
        ]
        return len(model.predict(np.stack(tensors)))

    return batch


def _tensors(model: Wide | Convolution) -> Callable[[], int]:
    values = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, *model.input_shape), np.uint8)
    return lambda: len(model.predict(values))


def main() -> None:
    """Do batch after batch for a time."""
    plans: dict[str, Callable[[], Callable[[], int]]] = {
        "photos": _photos,
        "wide": lambda: _tensors(Wide()),
        "convolution": lambda: _tensors(Convolution()),
    }
    batch = plans[sys.argv[1]]()
    seconds, done = float(sys.argv[2]), 0
    batch()
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - began_s < seconds:
        done += batch()
    print(done, time.perf_counter() - began_s, time.process_time() - cpu_began_s)


if __name__ == "__main__":
    main()
