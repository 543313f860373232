"""What the model servers of the tests have in common: kept connections, calls remembered, and ways to misbehave."""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.stack import ROOT


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        """Store status and text."""
        super().__init__(text)
        self.status = status
        self.text = text


class Server(ThreadingHTTPServer):
    """What outlives a connection."""

    def __init__(self, port: int, connection: type[Connection]) -> None:
        """Listen on a loopback port."""
        super().__init__(("127.0.0.1", port), connection)
        self.asked: Counter[str] = Counter()
        self.connections = 0
        self.last: dict[str, object] = {}


class Connection(BaseHTTPRequestHandler, ABC):
    """One kept connection; `route` is each protocol's own."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    calls = 0
    requests = 0

    def do_GET(self) -> None:
        """Answer, also a test that asks for the last call."""
        if self.path == "/control/last":
            self.answer(200, {**self.server.last, "connections": self.server.connections})
        else:
            self._serve(b"")

    def do_POST(self) -> None:
        """Answer calls."""
        self._serve(self.rfile.read(int(self.headers["Content-Length"])))

    @abstractmethod
    def route(self, content: bytes) -> None:
        """Find the model and the verb, and answer.

        Raises Refusal.
        """

    def _serve(self, content: bytes) -> None:
        self.requests += 1
        try:
            self.route(content)
        except Refusal as refusal:
            self.answer(refusal.status, {"error": refusal.text})

    def note(self, body: bytes) -> None:
        """Remember a call for `/control/last`."""
        self.calls += 1
        self.server.connections += self.calls == 1
        self.server.last = {"path": self.path, "body": body.decode(), "headers": dict(self.headers)}

    def is_loading(self, name: str) -> bool:
        """Return whether a model named loading-K is asked for one of the first K times, at each of its paths."""
        kind, _, calls = name.partition("-")
        self.server.asked[self.path] += 1
        return kind == "loading" and self.server.asked[self.path] <= int(calls)

    def misbehave(self, name: str, begun: bytes) -> None:
        """Do what the name of the model says, ending the connection where it must not go on.

        begun: how an answer begins that is never ended.
        """
        kind, _, value = name.partition("-")
        if kind == "fail":
            raise Refusal(int(value), f"said by {self.server.server_address}: " + "x" * 1000)
        if kind == "html":
            self.send(int(value), b"<html>\n<h1>Bad Gateway</h1>\xff</html>", "text/html")
        elif kind == "garbage":
            self.send(200, begun, "application/json")
        elif kind == "slow":
            time.sleep(float(value))
        elif kind == "drip":
            self.send(200, b" " * 100, "application/json", over_s=float(value))
        elif kind == "cut":
            self.send(200, begun, "application/json", promised=1000)
        ends = kind in ("html", "garbage", "drip", "cut", "drop") or (kind == "stale" and self.requests > 1)
        self.close_connection = self.close_connection or ends

    def answer(self, status: int, body: object) -> None:
        """Send JSON; NaN and Infinity as bare tokens."""
        self.send(status, json.dumps(body, indent=4).encode(), "application/json")

    def send(
        self,
        status: int,
        body: bytes,
        kind: str,
        *,
        promised: int = 0,
        over_s: float = 0,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Send an answer, also one that is slower or shorter than promised."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(promised or len(body)), **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        pieces = [body[i : i + 1] for i in range(len(body))] if over_s else [body]
        for piece in pieces:
            self.wfile.write(piece)
            time.sleep(over_s / len(pieces))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Say nothing."""


def serve(connection: type[Connection]) -> None:
    """Serve until killed; the port is printed."""
    parser = argparse.ArgumentParser(description="Keep a model server's contract, for tests.")
    parser.add_argument("--port", type=int, default=0)
    with Server(parser.parse_args().port, connection) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


@contextlib.contextmanager
def running(module: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a model server; yield its process and port."""
    command = [sys.executable, "-m", module, "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def last_call(url: str) -> dict[str, Any]:
    """Return what a model server remembers of its last call."""
    answer: dict[str, Any] = httpx.get(f"{url}/control/last", trust_env=False).json()
    return answer
