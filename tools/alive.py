"""Exit 0 when a batcher of this host has beaten lately: `python -m tools.alive`, the batcher's health check."""

from __future__ import annotations

import asyncio
import socket
import sys

from config import load_settings
from errors import ServiceError, StartError
from jobs import JobQueue


async def is_alive() -> bool:
    """Return whether a batcher of this host is on Redis's list.

    Raises StartError, RedisUnreachable.
    """
    settings = load_settings()
    queue = JobQueue(settings.redis_url, name=settings.queue_name, timeout_s=settings.redis_timeout_s)
    try:
        workers = await queue.workers()
    finally:
        await queue.close()
    here = socket.gethostname() + "-"
    return any(one.id.startswith(here) and one.silent_s <= settings.worker_timeout_s for one in workers)


def main() -> int:
    """Return the exit code of the check."""
    try:
        return 0 if asyncio.run(is_alive()) else 1
    except (StartError, ServiceError) as exc:
        print(exc, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
