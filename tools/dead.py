"""The jobs that were given up, since they ended each process that ran them.

`python -m tools.dead [model] [--requeue UUID]`: those of one model, or of all. Each line is when, the model where there
are several, the UUID, the code and the reason. What is put into the queue again keeps its UUID: its result is to be had
at /results/<UUID>, for a single image also under the id that its client was given.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from config import Settings
from errors import ServiceError, StartError
from jobs import JobQueue
from model_set import choose, load_models
from records import DeadLetter, Job, Submission

API_ID = "tools-dead"  # nobody listens to its bell: the result is collected by its UUID


def main() -> int:
    """List or queue again; return 1 where Redis or a job is not there."""
    parser = argparse.ArgumentParser(description="List the jobs that were given up, or queue them again.")
    parser.add_argument("model", nargs="?", help="of this model; without it of all")
    parser.add_argument("--requeue", metavar="UUID", help="queue this one again; `all` queues all")
    options = parser.parse_args()
    try:
        models = load_models()
        chosen = models if options.model is None else {options.model: choose(models, options.model)}
        return asyncio.run(_list(chosen) if options.requeue is None else _requeue(chosen, options.requeue))
    except (StartError, ServiceError) as exc:
        print(exc, file=sys.stderr)
        return 1


async def _list(models: Mapping[str, Settings]) -> int:
    found = 0
    for name, settings in models.items():
        async with _opened(settings) as queue:
            async for letter in queue.dead_letters():
                print(_line(letter, name if settings.models else ""))
                found += 1
    if not found:
        print("no job was given up", file=sys.stderr)
    return 0


async def _requeue(models: Mapping[str, Settings], wanted: str) -> int:
    count = 0
    for settings in models.values():
        async with _opened(settings) as queue:
            letters = [letter async for letter in queue.dead_letters()]
            for letter in (one for one in letters if wanted in ("all", one.result.uuid)):
                await _submit(queue, settings, letter)
                print(f"queued again: /results/{letter.result.uuid}")
                count += 1
    if not count and wanted != "all":
        print(f"{wanted} is not among the jobs that were given up", file=sys.stderr)
        return 1
    return 0


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[JobQueue]:
    queue = JobQueue(settings.redis_url, name=settings.queue_name, timeout_s=settings.redis_timeout_s)
    try:
        yield queue
    finally:
        await queue.close()


def _line(letter: DeadLetter, model: str) -> str:
    when = datetime.fromtimestamp(letter.died_at_s, UTC).isoformat(timespec="seconds")
    error = letter.result.error
    parts = (when, model, letter.result.uuid, f"{error.code}: {error.message}" if error else "")
    return "  ".join(part for part in parts if part)


async def _submit(queue: JobQueue, settings: Settings, letter: DeadLetter) -> None:
    """Forget the old result, submit, then take it off the list: whoever is interrupted may do it again.

    Raises ServiceError, StartError where the queue is full.
    """
    uuid = letter.result.uuid
    await queue.drop([uuid])
    _, (admission,) = await queue.submit(
        [Submission((Job(uuid, letter.payload),), settings.async_timeout_s, kept=True)],
        api_id=API_ID,
        max_queue_depth=settings.max_queue_depth,
        max_results=settings.max_results,
        max_batch_size=settings.max_batch_size,
        batch_s=0.0,
    )
    if admission.outcome != "accepted":
        raise StartError(f"{uuid} was not taken: the queue is full, or Redis is out of memory")
    await queue.forget_dead(letter)


if __name__ == "__main__":
    sys.exit(main())
