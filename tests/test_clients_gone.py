"""Clients that do not wait for their answers."""

from __future__ import annotations

import asyncio
import gc
import json
import time

import numpy as np
import pytest
import redis
from starlette.types import Message

from asgi import Incoming
from presence import LOOK_AFTER_S, Presence
from tests.scale import times
from tests.stack import Stack, npy, until_ready

BLANK = np.zeros((32, 32, 3), np.uint8)
PATHS = {
    "/predict": npy(BLANK),
    "/v1/models/model:predict": json.dumps({"instances": [BLANK.tolist()]}).encode(),
    "/v2/models/model/infer": json.dumps(
        {"inputs": [{"name": "input", "datatype": "UINT8", "shape": [1, *BLANK.shape], "data": [BLANK.tolist()]}]}
    ).encode(),
}


async def waiting_client(socket: str, path: str, body: bytes) -> asyncio.StreamWriter:
    _reader, writer = await asyncio.open_unix_connection(socket)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return writer


@pytest.mark.chaos
@pytest.mark.parametrize("path", PATHS)
async def test_jobs_of_clients_that_went_away_never_reach_the_model(stack: Stack, path: str) -> None:
    count = times(60, 600)
    stack.start_redis()
    stack.start_batcher(
        MICROBATCH_MODEL="simulated", MICROBATCH_SIMULATED_BATCH_S="0.1", MICROBATCH_MAX_BATCH_SIZE=str(count // 20)
    )
    stack.start_api()
    async with stack.client() as client:
        await until_ready(client)
    server = redis.Redis(unix_socket_path=f"{stack.folder}/redis.sock")
    clients = [await waiting_client(f"{stack.folder}/api.sock", path, PATHS[path]) for _ in range(count)]
    end_s = time.monotonic() + 10
    while server.hget("{mb:default}:stats", "submitted") != str(count).encode():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.005)

    for gone in clients[count // 2 :]:
        gone.close()
    while server.zcard("{mb:default}:deadlines"):
        assert time.monotonic() < end_s + 30
        await asyncio.sleep(0.01)

    run_for_nobody = int(server.hget("{mb:default}:stats", "claimed") or 0) - count // 2
    assert run_for_nobody <= count // 2 * 0.01
    for one in clients:
        one.close()
    server.close()


async def test_a_client_that_was_watched_leaves_nothing_for_the_garbage_collector() -> None:
    presence, never = Presence(), asyncio.Event()

    async def receive() -> Message:
        await never.wait()
        return {"type": "http.disconnect"}

    async def visit() -> None:
        with presence.of(Incoming({"headers": []}, receive)):
            await asyncio.sleep(2 * LOOK_AFTER_S)

    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await asyncio.create_task(visit())
        await asyncio.sleep(0.01)  # the watching ends one turn later
        left = gc.collect()
    finally:
        gc.enable()

    assert left == 0
