"""Who may import whom: the rooms keep to the plan."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = {path.stem: path for path in ROOT.glob("*.py")} | {
    f"fronts.{path.stem}": path for path in (ROOT / "fronts").glob("*.py")
}


def imports(path: Path) -> set[str]:
    """Return what a file imports: packages, rooms, and of the folders of rooms each one by itself."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found | {name.split(".")[0] for name in found}


def reached(room: str) -> set[str]:
    seen: set[str] = set()
    todo = [room]
    while todo:
        for name in imports(ROOMS[todo.pop()]) & ROOMS.keys() - seen:
            seen.add(name)
            todo.append(name)
    return seen


def test_only_the_wire_speaks_redis_and_only_the_queue_uses_it() -> None:
    assert {room for room, path in ROOMS.items() if "redis" in imports(path)} == {"wire"}
    assert {room for room, path in ROOMS.items() if "wire" in imports(path)} == {"jobs"}


def test_only_the_room_that_is_opened_when_traces_are_on_speaks_opentelemetry() -> None:
    assert {room for room, path in ROOMS.items() if "opentelemetry" in imports(path)} == {"otlp"}
    assert {room for room, path in ROOMS.items() if "otlp" in imports(path)} == set()


def test_api_and_batcher_never_import_each_other_and_the_api_no_model() -> None:
    assert not {"batcher", "loop", "model_client"} & reached("api")
    assert not {name for room in reached("api") for name in imports(ROOMS[room]) if name == "httpx"}
    assert "api" not in reached("batcher")


def test_no_room_imports_itself_in_a_circle() -> None:
    assert [room for room in ROOMS if room in reached(room)] == []


def test_only_the_configuration_reads_the_environment() -> None:
    """What is common, and what is of each model."""
    readers = {room for room, path in ROOMS.items() if "os.environ" in path.read_text()}

    assert readers == {"config", "model_set"}
