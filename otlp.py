"""Traces by OpenTelemetry, sent as OTLP over HTTP to where the standard OTEL_* variables say."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from errors import StartError, told
from records import ClaimedJob, context_of
from tracing import Call

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as missing:
    raise StartError(
        f"MICROBATCH_TRACES=otlp: OpenTelemetry cannot be imported ({missing}): "
        ".venv/bin/pip install -r requirements-otel.txt"
    ) from missing

FLUSH_S = 1.0
"""How long the end of the process waits for what is left to be sent."""
MOST_LINKS = 1024
"""As many as a batch may have jobs."""

_W3C = TraceContextTextMapPropagator()


def open_tracing(process: str, instance: str, model: str) -> Otlp:
    """Start the thread that sends spans; nothing is connected before there are some.

    A batcher asks no sampler: what it hears of was sampled by the api.
    Raises StartError where the OTEL_* variables are wrong.
    """
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # one line a lost export, none a try
    own = {"service.name": f"microbatch-{process}", "service.instance.id": instance}
    try:
        provider = TracerProvider(
            resource=Resource.create({**own, **OTELResourceDetector().detect().attributes}),
            sampler=ALWAYS_ON if process == "batcher" else None,
            span_limits=SpanLimits(max_links=MOST_LINKS),
            shutdown_on_exit=False,
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as exc:
        raise StartError(f"MICROBATCH_TRACES=otlp: {exc}") from exc
    return Otlp(provider, {"microbatch.worker.id": instance, "microbatch.model": model})


class Otlp:
    """Spans of OpenTelemetry, see tracing.Tracing; worker: what the spans of batches say of theirs."""

    def __init__(self, provider: TracerProvider, worker: Mapping[str, str]) -> None:
        self._provider = provider
        self._worker = worker
        self._tracer = provider.get_tracer("microbatch")

    def request(self, headers: Mapping[str, str], attributes: Mapping[str, str]) -> RequestSpan:
        """Begin the span of a request, in the trace that its headers name."""
        name = f"{attributes['http.request.method']} {attributes['http.route']}"
        span = self._tracer.start_span(name, _W3C.extract(headers), SpanKind.SERVER, attributes)
        return RequestSpan(self._tracer, span)

    def claimed(self, jobs: Sequence[ClaimedJob], *, claimed_s: float, decode_s: float) -> None:
        """Add to each job's trace how long it lay in the queue, and the decoding that followed."""
        claimed_ns = _unix_ns(claimed_s)
        for job in jobs:
            if parent := _context(job):
                self._add("queue", parent, (claimed_ns - _ns(job.queued_s), claimed_ns))
                if decode_s:
                    self._add("decode", parent, (claimed_ns, claimed_ns + _ns(decode_s)))

    def called(self, call: Call) -> None:
        """Add one span of the batch, linked to each job's request, and to each of their traces the call."""
        parents = {place: parent for place, job in enumerate(call.jobs) if (parent := _context(job))}
        if not parents:
            return
        when = (_unix_ns(call.started_s), _unix_ns(call.ended_s))
        sizes: dict[str, str | int] = {"microbatch.batch.id": call.batch_id, "microbatch.batch.size": len(call.jobs)}
        links = [
            Link(trace.get_current_span(parent).get_span_context(), {"microbatch.job.id": call.jobs[place].uuid})
            for place, parent in parents.items()
        ]
        batch = self._tracer.start_span(
            "batch", Context(), SpanKind.CONSUMER, {**sizes, **self._worker}, links, when[0]
        )
        if call.error:
            batch.record_exception(call.error, timestamp=when[1])
        _close(batch, when[1], call.error)
        here = Link(batch.get_span_context())
        for place, parent in parents.items():
            self._add("model", parent, when, attributes=sizes, links=[here], error=call.error_of(place))

    def close(self) -> None:
        """Send what is left, and wait for that a moment: a receiver that is away must not hold up the end."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(FLUSH_S)

    def _add(self, name: str, parent: Context, when: tuple[int, int], **more: Any) -> None:
        """Add a span that is over to the trace of a request."""
        error = more.pop("error", None)
        _close(self._tracer.start_span(name, parent, start_time=when[0], **more), when[1], error)


class RequestSpan:
    """The span of one request, see tracing.RequestTrace."""

    def __init__(self, tracer: trace.Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self.context = _written(span) if span.is_recording() else ""

    def prepared(self, took_s: float) -> None:
        """Add the preparation of its images, which has just ended."""
        if not self.context:
            return
        now_ns = time.time_ns()
        parent = trace.set_span_in_context(self._span, Context())
        self._tracer.start_span("prepare", parent, start_time=now_ns - _ns(took_s)).end(now_ns)

    def end(self, status: int, *, code: str, images: int, body_bytes: int) -> None:
        """End it with the answer; what is the client's fault is no error of this service."""
        if not self.context:
            return
        sizes = {"http.request.body.size": body_bytes, "microbatch.images": images}
        self._span.set_attributes({"http.response.status_code": status, **sizes})
        if code:
            self._span.set_attribute("microbatch.code", code)
        if status >= 500:
            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _written(span: Span) -> str:
    """Return a span's context as it travels: one word."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, Context()))
    state = carrier.get("tracestate", "")
    return f"{carrier['traceparent']};{state}" if state and " " not in state else carrier["traceparent"]


def _context(job: ClaimedJob) -> Context | None:
    """Return the context that came with a job, None where its request is not traced."""
    traceparent, _, tracestate = context_of(job).partition(";")
    if not traceparent:
        return None
    found = _W3C.extract({"traceparent": traceparent, "tracestate": tracestate}, Context())
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def _close(span: Span, ended_ns: int, error: Exception | None) -> None:
    if error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(StatusCode.ERROR, told(error)[:200])
    span.end(ended_ns)


def _unix_ns(monotonic_s: float) -> int:
    return time.time_ns() - _ns(time.monotonic() - monotonic_s)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
