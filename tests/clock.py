"""Redis' own clock, by which leases and deadlines end."""

from __future__ import annotations

from redis.asyncio import Redis


async def let_pass(redis: Redis, duration_s: float) -> None:
    """Come back when what ends `duration_s` from now at the latest has ended."""
    end_s = await _now_s(redis) + duration_s + 0.001  # scripts know whole milliseconds only
    while await _now_s(redis) <= end_s:
        pass


async def _now_s(redis: Redis) -> float:
    seconds, microseconds = await redis.time()
    return float(seconds + microseconds / 1e6)
