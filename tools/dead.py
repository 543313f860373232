"""The jobs that were given up, since they ended each process that ran them: `python -m tools.dead [--requeue UUID]`.

Each line is when, the UUID, the code and the reason. What is put into the queue again keeps its UUID: its result is to
be had at /results/<UUID>, for a single image also under the id that its client was given.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from datetime import UTC, datetime

from config import Settings, load_settings
from errors import ServiceError, StartError
from jobs import JobQueue
from records import DeadLetter, Job, Submission

API_ID = "tools-dead"  # nobody listens to its bell: the result is collected by its UUID


def main() -> int:
    """List or queue again; return 1 where Redis or a job is not there."""
    parser = argparse.ArgumentParser(description="List the jobs that were given up, or queue them again.")
    parser.add_argument("--requeue", metavar="UUID", help="queue this one again; `all` queues all")
    options = parser.parse_args()
    try:
        return asyncio.run(_run(load_settings(), options.requeue))
    except (StartError, ServiceError) as exc:
        print(exc, file=sys.stderr)
        return 1


async def _run(settings: Settings, wanted: str | None) -> int:
    queue = JobQueue(settings.redis_url, name=settings.queue_name, timeout_s=settings.redis_timeout_s)
    try:
        letters = [letter async for letter in queue.dead_letters()]
        if wanted is None:
            for letter in letters:
                print(_line(letter))
            return 0
        chosen = [letter for letter in letters if wanted in ("all", letter.result.uuid)]
        for letter in chosen:
            await _requeue(queue, settings, letter)
            print(f"queued again: /results/{letter.result.uuid}")
    finally:
        await queue.close()
    if not chosen and wanted != "all":
        print(f"{wanted} is not among the jobs that were given up", file=sys.stderr)
        return 1
    return 0


def _line(letter: DeadLetter) -> str:
    when = datetime.fromtimestamp(letter.died_at_s, UTC).isoformat(timespec="seconds")
    error = letter.result.error
    return f"{when}  {letter.result.uuid}  {error.code}: {error.message}" if error else f"{when}  {letter.result.uuid}"


async def _requeue(queue: JobQueue, settings: Settings, letter: DeadLetter) -> None:
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
    if admission != "accepted":
        raise StartError(f"{uuid} was not taken: the queue is full, or Redis is out of memory")
    await queue.forget_dead(letter)


if __name__ == "__main__":
    sys.exit(main())
