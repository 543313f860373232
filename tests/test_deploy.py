"""The files in which the service is shipped, as far as they can be checked without a container engine."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import PREFIX, Settings, variable_name

ROOT = Path(__file__).parents[1]
COMPOSE_FILES = ("docker-compose.yml", "deploy/tf-serving.yml")
MAINS = ("api.py", "batcher.py", "tools/dead.py", "tools/top.py")
OWN_FILE = re.compile(r'__file__\)\.(?:with_name\("([^"]+)"\)|parent / "([^"]+)")')


def services(file: str = "docker-compose.yml") -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / file).read_text())["services"]
    return found


def instructions() -> list[tuple[str, str]]:
    """Read the Dockerfile as (keyword, rest)."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    last = max(i for i, (keyword, _) in enumerate(found) if keyword == "FROM")
    return found[last:]


def value_of(keyword: str) -> str:
    """Return what an instruction of the final stage says last."""
    return [rest for name, rest in final_stage() if name == keyword][-1]


def is_sent_to_the_engine(path: str) -> bool:
    """Return whether .dockerignore lets a file through; the last line that matches it or a parent decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").strip()
        if pattern and not pattern.startswith("#") and matches(path, pattern):
            sent = line.startswith("!")
    return sent


def matches(path: str, pattern: str) -> bool:
    parts = path.split("/")
    if pattern.startswith("**/"):
        return any(fnmatch.fnmatch(part, pattern.removeprefix("**/")) for part in parts)
    wanted = pattern.split("/")
    return len(wanted) <= len(parts) and all(map(fnmatch.fnmatch, parts, wanted))


def copied_files() -> set[str]:
    """Return what the final stage copies from the repository."""
    copied = set()
    for rest in (rest for keyword, rest in final_stage() if keyword == "COPY" and "--from" not in rest):
        *sources, _ = shlex.split(rest)
        for source in sources:
            found = list(ROOT.glob(source))
            assert found, f"COPY {source}: there is no such file"
            files = [inner for path in found for inner in (path.rglob("*") if path.is_dir() else (path,))]
            names = {file.relative_to(ROOT).as_posix() for file in files if file.is_file()}
            sent = {name for name in names if is_sent_to_the_engine(name)}
            assert sent, f"COPY {source}: .dockerignore keeps it from the engine"
            copied |= sent
    return copied


def imported_names(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_files(name: str) -> Iterator[str]:
    """Yield the files of this repository that importing a dotted name runs."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        path = "/".join(parts[:depth])
        yield from (file for file in (f"{path}.py", f"{path}/__init__.py") if (ROOT / file).is_file())


def needed_files() -> set[str]:
    """Walk the imports from the mains."""
    needed: set[str] = set()
    waiting = list(MAINS)
    while waiting:
        file = waiting.pop()
        if file not in needed:
            needed.add(file)
            waiting += [found for name in imported_names(ROOT / file) for found in own_files(name)]
    return needed


# The image


def test_the_image_holds_every_room_that_its_mains_import() -> None:
    missing = needed_files() - copied_files()

    assert not missing


def test_the_image_holds_the_files_that_rooms_read_beside_themselves() -> None:
    read = {
        (ROOT / file).with_name(name or folder)
        for file in needed_files()
        for name, folder in OWN_FILE.findall((ROOT / file).read_text())
    }
    copied = {ROOT / file for file in copied_files()}

    assert read
    assert all(path in copied or any(path in file.parents for file in copied) for path in read)


def test_the_image_holds_nothing_else_of_the_repository() -> None:
    strays = {file for file in copied_files() if file.startswith((".", "tests", "bench", "examples", "deploy"))}

    assert not strays
    assert not any(is_sent_to_the_engine(path) for path in (".env", ".git/config", "tests/test_deploy.py"))
    assert not any("__pycache__" in file for file in copied_files())


def test_the_image_runs_as_a_fixed_user_who_is_not_root() -> None:
    user, group = value_of("USER").split(":")

    assert int(user) > 0
    assert int(group) > 0
    assert any(f"--uid {user}" in rest for keyword, rest in final_stage() if keyword == "RUN")


def test_the_image_starts_the_api_without_a_shell_between_it_and_its_signals() -> None:
    command = json.loads(value_of("CMD"))

    assert command[:2] == ["uvicorn", "api:app"]
    assert command[command.index("--host") + 1] == "0.0.0.0"  # noqa: S104 - inside its container
    assert "--timeout-graceful-shutdown" in command
    assert not any(keyword == "ENTRYPOINT" for keyword, _ in final_stage())


def test_the_image_installs_only_what_is_pinned_and_in_a_stage_of_its_own() -> None:
    files = ("requirements.txt", "requirements-onnx.txt", "requirements-otel.txt")
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines() if line and line[0] != "#"]
    pinned = [line.partition(";")[0] for line in lines if line != "-r requirements.txt"]

    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned)
    assert all(is_sent_to_the_engine(file) for file in files)
    assert not any("pip" in rest for keyword, rest in final_stage() if keyword == "RUN")
    assert "PYTHONUNBUFFERED=1" in value_of("ENV")


# The composition


def test_only_the_api_and_what_observes_are_published_and_only_on_loopback() -> None:
    published = {
        name: service["ports"]
        for file in COMPOSE_FILES
        for name, service in services(file).items()
        if "ports" in service
    }

    assert list(published) == ["api", "prometheus", "grafana"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_the_api_and_batchers_are_asked_for_their_health_where_they_listen() -> None:
    found = services()
    port = found["batcher"]["environment"][f"{PREFIX}BATCHER_METRICS_PORT"]
    published = found["api"]["ports"][0].rpartition(":")[2]

    assert found["batcher"]["environment"][f"{PREFIX}BATCHER_METRICS_HOST"] == "0.0.0.0"  # noqa: S104 - in its network
    assert found["batcher"]["healthcheck"]["test"] == [*found["api"]["healthcheck"]["test"][:-1], port]
    assert found["api"]["healthcheck"]["test"][-1] == published
    with answering("/health/live") as asked:
        check = [sys.executable, *found["api"]["healthcheck"]["test"][2:-1]]
        assert subprocess.run([*check, str(asked)], check=False, capture_output=True, timeout=20).returncode == 0
    assert subprocess.run([*check, str(asked)], check=False, capture_output=True, timeout=20).returncode != 0


@contextmanager
def answering(path: str) -> Iterator[int]:
    """Answer 200 at this path of the yielded port, and 404 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_redis_refuses_rather_than_forgets_and_keeps_what_it_has() -> None:
    redis = services()["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))

    assert options == {"--appendonly": "yes", "--maxmemory": "512mb", "--maxmemory-policy": "noeviction"}
    assert redis["volumes"] == ["redis:/data"]


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_every_service_tells_of_its_health_comes_back_and_holds_no_rights(file: str) -> None:
    for service in services(file).values():
        if "image" not in service and "build" not in service:
            continue  # an addition to a service of the first file
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert service["restart"] == "unless-stopped"
        assert "stop_grace_period" in service
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_what_is_ours_and_redis_cannot_write_to_its_own_image() -> None:
    assert all(service["read_only"] is True for service in services().values())


def test_both_kinds_of_process_start_when_redis_is_ready() -> None:
    for name in ("api", "batcher"):
        service = services()[name]

        assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
        assert service["environment"]["REDIS_URL"] == "redis://redis:6379/0"


def test_batchers_can_be_scaled() -> None:
    batcher = services()["batcher"]

    assert batcher["command"] == ["python", "batcher.py"]
    assert not {"container_name", "ports", "hostname"} & batcher.keys()


def test_the_batcher_of_another_model_needs_no_more_than_what_is_said_in_the_comment() -> None:
    lines = (ROOT / "docker-compose.yml").read_text().splitlines()
    start = lines.index("  # batcher-photos:")
    lines[start : start + 3] = [line.replace("# ", "", 1) for line in lines[start : start + 3]]

    found = yaml.safe_load("\n".join(lines))["services"]

    assert found["batcher-photos"] == found["batcher"] | {"command": ["python", "batcher.py", "photos"]}


def test_a_file_of_settings_may_be_there_or_not() -> None:
    for name in ("api", "batcher"):
        assert services()[name]["env_file"] == [{"path": ".env", "required": False}]


def test_processes_have_longer_to_stop_than_they_take() -> None:
    command = json.loads(value_of("CMD"))
    graces = [
        Settings.model_fields["shutdown_grace_s"].default,
        float(command[command.index("--timeout-graceful-shutdown") + 1]),
    ]

    delays = {"api": 30.0, "batcher": 0.0}  # the longest MICROBATCH_DRAIN_DELAY_S that the file says it allows
    allowed = {name: seconds(services()[name]["stop_grace_period"]) for name in delays}
    assert all(allowed[name] >= delays[name] + max(graces) + 2 for name in delays)


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("file", COMPOSE_FILES)
def test_every_setting_that_is_named_exists(file: str) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", (ROOT / file).read_text()))

    assert named <= {variable_name(field) for field in Settings.model_fields}


def test_the_tf_serving_file_points_batchers_at_the_mounted_model() -> None:
    server, batcher = (services("deploy/tf-serving.yml")[name] for name in ("tf-serving", "batcher"))
    (volume,) = server["volumes"]

    assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+", server["image"])
    assert volume["target"] == "/models/model"
    assert volume["read_only"] is True
    assert volume["source"].startswith("${MODEL_DIR:?")
    assert batcher["environment"][f"{PREFIX}MODEL"] == "tf-serving"
    assert batcher["environment"][f"{PREFIX}TF_SERVING_URL"] == "http://tf-serving:8501"
    assert batcher["environment"][f"{PREFIX}TF_SERVING_NAME"] == "model"
    assert batcher["environment"][f"{PREFIX}INPUT_SHAPE"] == "${INPUT_SHAPE:-}"
    assert set(batcher["depends_on"]) == {"tf-serving"}
