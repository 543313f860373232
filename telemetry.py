"""Every metric of the api."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one api process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "microbatch_requests", "Prediction requests answered, by status.", ["status"], registry=self._registry
        )
        self._by_status: dict[int, Counter] = {}
        self.request_seconds = Histogram(
            "microbatch_request_seconds",
            "From a request's head to its answer.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self.decode_seconds = Histogram(
            "microbatch_decode_seconds", "Decoding of one request's images.", buckets=SECONDS, registry=self._registry
        )
        self.queue_depth = Gauge(
            "microbatch_queue_depth", "Unfinished jobs in the queue, waiting and leased.", registry=self._registry
        )
        self.workers = Gauge("microbatch_workers", "Batchers alive and warm.", registry=self._registry)

    def answered(self, status: int, seconds: float) -> None:
        """Count an answered request."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self.requests.labels(status)
        counter.inc()
        self.request_seconds.observe(seconds)

    def text(self) -> bytes:
        """Return all of them in Prometheus's text format."""
        return generate_latest(self._registry)
