"""The batcher process: claim, batch, predict, settle; as many of them as you like.

Run it with `python batcher.py`, where there are several models with the name of one of them; settings come from the
environment. SIGTERM and SIGINT stop it once what it holds is finished.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING
from uuid import uuid4

import uvloop

from calls import CallLog
from config import Settings
from decoding import Decoder, Threads
from errors import StartError, UnfitRedis
from jobs import JobQueue
from logs import set_up_logging
from loop import Batcher, exit_now
from metrics import Metrics
from model_client import ModelClient, open_model
from model_set import choose, load_models
from publishing import Publisher
from tracing import OpenTracing, load_tracing

if TYPE_CHECKING:
    from scrape import Scrape

log = logging.getLogger("batcher")


async def serve(settings: Settings, model: ModelClient, worker_id: str, open_tracing: OpenTracing | None) -> None:
    """Run one batcher until SIGTERM or SIGINT, and at most `shutdown_grace_s` longer.

    Raises UnfitRedis or StartError where serving makes no sense.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    metrics = Metrics(on=settings.metrics)
    queue = JobQueue(
        settings.redis_url,
        name=settings.queue_name,
        timeout_s=settings.redis_timeout_s,
        on_reply=metrics.redis_replied,
    )
    threads = Threads(settings.decode_threads)
    decoder = Decoder(threads, formats=settings.image_formats, max_pixels=settings.max_pixels)
    tracing = open_tracing("batcher", worker_id, settings.model) if open_tracing else None
    batcher = _assemble(
        settings, queue, model, decoder, metrics=metrics, worker_id=worker_id, call_log=CallLog(tracing)
    )
    log.info("started", extra={"model": settings.model, "queue": settings.queue_name})
    async with _watched(settings, queue, metrics, batcher):
        finished = await _finishes(batcher, stopping, settings.shutdown_grace_s)
    if not finished:  # a thread may hang in the model
        if tracing is not None:
            tracing.close()
        exit_now(0)
    await model.close()
    threads.close()
    await queue.close()
    if tracing is not None:
        tracing.close()
    log.info("stopped")


async def _finishes(batcher: Batcher, stopping: asyncio.Event, grace_s: float) -> bool:
    """Run until told to stop; return whether what was held then was finished in time."""
    running = asyncio.create_task(batcher.run(stopping))
    told = asyncio.create_task(stopping.wait())
    await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        log.info("stopping: what is held is finished first", extra={"grace_s": grace_s})
        await asyncio.wait({running}, timeout=grace_s)
    if not running.done():
        await batcher.leave()
        return False
    told.cancel()
    await running
    return True


@asynccontextmanager
async def _watched(settings: Settings, queue: JobQueue, metrics: Metrics, batcher: Batcher) -> AsyncIterator[None]:
    """Have it seen from outside what the batcher does, meanwhile.

    Raises StartError where its own port cannot be had.
    """
    publisher = Publisher(queue, metrics, process_id=batcher.id, row=str)
    async with AsyncExitStack() as stack:
        if settings.batcher_metrics_port:
            scrape: type[Scrape] = import_module("scrape").Scrape  # its web server is loaded only where it is wanted
            address = settings.batcher_metrics_host, settings.batcher_metrics_port
            await stack.enter_async_context(scrape(address, metrics, worker_id=batcher.id))
        if metrics.on:
            stack.push_async_callback(publisher.close)
            stack.callback(asyncio.create_task(publisher.run()).cancel)
        yield


def _assemble(
    settings: Settings,
    queue: JobQueue,
    model: ModelClient,
    decoder: Decoder,
    *,
    metrics: Metrics,
    worker_id: str,
    call_log: CallLog,
) -> Batcher:
    return Batcher(
        queue,
        model,
        decoder,
        worker_id=worker_id,
        model_name=settings.model,
        max_batch_size=settings.max_batch_size,
        allowed_batch_sizes=settings.allowed_batch_sizes,
        max_wait_s=settings.max_wait_s,
        lease_s=settings.lease_s,
        max_solo=settings.max_solo,
        model_timeout_s=settings.model_timeout_s,
        result_ttl_s=settings.result_ttl_s,
        longest_estimate_s=settings.request_timeout_s / 2,
        metrics=metrics,
        call_log=call_log,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run one batcher of a model; as many may run as you like.",
        epilog="Settings come from the environment: REDIS_URL and MICROBATCH_*, see README.md.",
    )
    parser.add_argument("model", nargs="?", help="one of MICROBATCH_MODELS; without it the first of them")
    return parser.parse_args()


def main() -> int:
    """Start a batcher; return its exit code."""
    options = _options()
    try:
        settings = choose(load_models(), options.model)
        worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:4]}"
        set_up_logging(settings.log_level, settings.log_format, worker=worker_id)
        open_tracing = load_tracing(settings.traces)
        uvloop.run(serve(settings, open_model(settings), worker_id, open_tracing))
    except (StartError, UnfitRedis) as exc:
        print(f"batcher: {exc}", file=sys.stderr)  # noqa: T201  # a start that fails is one line, not a log record
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
