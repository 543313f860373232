"""A receiver of traces: OTLP over HTTP, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """Where spans arrive; service: of each span, the name of the process that sent it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []
        self.services: dict[bytes, str] = {}

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.services |= dict.fromkeys((span.span_id for span in scope.spans), names["service.name"])
                self.spans += scope.spans

    def of(self, trace_id: str) -> dict[str, Span]:
        """Return the spans of a trace by their names."""
        return {span.name: span for span in self.spans if span.trace_id.hex() == trace_id}

    def until(self, condition: Callable[[Span], bool]) -> Span:
        """Wait for a span."""
        end_s = time.monotonic() + 15
        while time.monotonic() < end_s:
            if found := [span for span in self.spans if condition(span)]:
                return found[0]
            time.sleep(0.02)
        pytest.fail(f"no such span among {[span.name for span in self.spans]}")

    def until_named(self, trace_id: str, names: set[str]) -> dict[str, Span]:
        """Wait until a trace has spans of all these names."""
        self.until(lambda _: names <= self.of(trace_id).keys())
        return self.of(trace_id)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen on a port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server's name
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()


def attributes(span: Span) -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}
