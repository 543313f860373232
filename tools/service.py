"""Redis, batchers and api as child processes of one runner."""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from config import PREFIX, Settings, variable_name
from errors import StartError
from tools.local_redis import find_redis, log_path, private_directory, redis_command, socket_path, wait_until_up
from tools.processes import KeptProcess, say, stop_in_order

EXTRA_GRACE_S = 2.0  # what a process may take beyond its own grace before it is killed
PROBE_TIMEOUT_S = 2.0
FIRST_CHOICE = 8000
GAVE_UP = 1  # the exit code of a batcher or api whose settings, model or Redis are wrong
LAST_PORT = 65_535
WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Health:
    """What /health/ready says: whether the service is ready, with how many workers, or what is missing."""

    ready: bool
    workers: int
    missing: str


class LocalService:
    """Redis, batchers and api as child processes of this one.

    models: by name, the default one first. batchers: so many for each of them.
    """

    def __init__(self, models: Mapping[str, Settings], *, batchers: int, host: str, port: int) -> None:
        self.models = models
        self._settings = next(iter(models.values()))
        self._batchers = batchers
        self._host = WILDCARDS.get(host, host)
        self._bind = host
        self._port = port
        self._grace_s = self._settings.drain_delay_s + self._settings.shutdown_grace_s + EXTRA_GRACE_S
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if self._settings.log_format == "auto" and sys.stderr.isatty():  # theirs is a pipe to this process
            self._env[variable_name("log_format")] = "human"
        self._stages: list[list[KeptProcess]] = []  # in the order of stopping
        self._on_stop = ExitStack()

    @property
    def url(self) -> str:
        """Where the api is reached from this machine."""
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    def start(self) -> None:
        """Start everything; who calls this also calls `stop`, even when it fails.

        Raises StartError when there is no Redis or it does not start.
        """
        if "redis_url" in self._settings.model_fields_set:
            say("using the Redis at REDIS_URL")
        else:
            self._start_redis()
        self._start_stage([self._batcher(name, i + 1) for name in self.models for i in range(self._batchers)])
        self._start_stage([KeptProcess("api", self._api_command(), env=self._env, grace_s=self._grace_s)])

    def stop(self, hurried: Callable[[], bool] = lambda: False) -> bool:
        """Stop the api, then the batchers, then Redis; return whether none had to be killed."""
        with self._on_stop:
            return stop_in_order(self._stages, self._grace_s, hurried=hurried)

    def health(self) -> Health:
        """Ask the api whether it is ready."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/health/ready")
            response = connection.getresponse()
            body = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return Health(ready=False, workers=0, missing="the api does not answer yet")
        finally:
            connection.close()
        if not isinstance(body, dict):
            return Health(ready=False, workers=0, missing="something else answers on this port")
        ready = response.status == http.HTTPStatus.OK
        return Health(ready, int(body.get("workers", 0)), str(body.get("detail", f"status {response.status}")))

    def cannot_start(self) -> str | None:
        """Return the name of a process that gave up at its start, having said why."""
        gave_up = [process.name for stage in self._stages for process in stage if process.last_code == GAVE_UP]
        return gave_up[0] if gave_up else None

    def _start_redis(self) -> None:
        server = find_redis()
        directory = self._on_stop.enter_context(private_directory())
        say(f"using a private Redis ({server.path}, {server.version})")
        redis = KeptProcess(
            "redis",
            redis_command(server, directory),
            env=self._env,
            grace_s=self._grace_s,
            remove=directory,
            log=log_path(directory),
        )
        self._start_stage([redis])
        wait_until_up(directory)
        self._env["REDIS_URL"] = url = f"unix://{socket_path(directory)}"
        verb, what = ("watch it", "-m tools.top") if self._batchers else ("start batchers", "batcher.py")
        several = f" {PREFIX}MODELS={','.join(self._settings.models)}" if self._settings.models else ""
        for model in self._settings.models or ("",):
            say(f"{verb} with REDIS_URL={url}{several} {os.path.relpath(sys.executable)} {what} {model}".rstrip())

    def _batcher(self, model: str, number: int) -> KeptProcess:
        several, share = self._settings.models, {}
        if "decode_threads" not in self._settings.model_fields_set:
            share = {variable_name("decode_threads"): str(decode_threads(self._batchers * len(self.models)))}
        name = f"batcher-{model}-{number}" if several else f"batcher-{number}"
        command = [sys.executable, "batcher.py", *([model] if several else [])]
        return KeptProcess(name, command, env=self._env | share, grace_s=self._grace_s)

    def _api_command(self) -> list[str]:
        grace_s = max(1, math.ceil(self._settings.shutdown_grace_s))
        options = {"host": self._bind, "port": str(self._port), "timeout-graceful-shutdown": str(grace_s)}
        flags = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [sys.executable, "-m", "uvicorn", "api:app", *flags, "--no-access-log"]

    def _start_stage(self, stage: list[KeptProcess]) -> None:
        self._stages.insert(0, stage)
        for process in stage:
            process.start()


def decode_threads(batchers: int) -> int:
    """Return on how many threads each of so many batchers of one machine decodes: more than cores only disturb."""
    return max(1, (os.cpu_count() or 1) // batchers)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens just now."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise StartError where nothing can listen on the port."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn: else TIME_WAIT is in the way
            trial.bind(address)
    except OSError as exc:
        other = port + 1 if port < LAST_PORT else FIRST_CHOICE
        raise StartError(
            f"cannot listen on {host}:{port} ({exc.strerror}); choose another port: make run PORT={other}"
        ) from exc
