"""Modules with a model that a test writes, opened in a thread and in a process of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest

from config import Settings
from model_client import ModelClient, open_model

Open = Callable[..., ModelClient]
RUNS_IN = ("thread", "process")


@pytest.fixture
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    """Write a module and open its `Model`; the settings reach a process by the environment, as they do."""
    for name in [name for name in os.environ if name.upper().startswith(("MICROBATCH_", "REDIS_URL"))]:
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(tmp_path)
    models: list[ModelClient] = []

    def write(code: str, runs_in: str = "process", **settings: str) -> ModelClient:
        name = f"model_{uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(code)
        for key, value in ({"MODEL": f"python:{name}:Model", "PYTHON_RUNS_IN": runs_in} | settings).items():
            monkeypatch.setenv(f"MICROBATCH_{key}", value)
        models.append(open_model(Settings()))
        return models[-1]

    yield write
    for model in models:
        await model.close()
