"""Fixtures that several test files use."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from tests.marked import Runner, kill_marked
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


@pytest.fixture
def mark() -> Iterator[str]:
    """Make a mark whose processes all end with the test."""
    with tempfile.TemporaryDirectory(prefix="mark-", dir="/tmp") as directory:
        yield directory
        kill_marked(directory)


@pytest.fixture
def run(mark: str) -> Iterator[Callable[..., Runner]]:
    """Start runners that end with the test."""
    runners: list[Runner] = []

    def start(*arguments: str, **env: str) -> Runner:
        runners.append(Runner(mark, *arguments, **env))
        return runners[-1]

    yield start
    for runner in runners:
        runner.process.kill()
        kill_marked(mark)
        runner.wait()


def pytest_report_header() -> str:
    return f"SEED={SEED}"
