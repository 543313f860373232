"""Fixtures that several test files use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from tests.scale import SEED
from tests.stack import Stack


@pytest.fixture
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Nothing runs yet; what the test starts ends with it."""
    running = Stack(tmp_path_factory.mktemp("s"))
    yield running
    running.kill()


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with stack.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Redis, a batcher and an api with a low limit on bodies, for all tests of a file."""
    running = Stack(tmp_path_factory.mktemp("shared"))
    running.start_redis()
    running.start_batcher()
    running.start_api(MICROBATCH_MAX_BODY_BYTES="4000")
    yield running
    running.kill()


def pytest_report_header() -> str:
    return f"SEED={SEED}"
