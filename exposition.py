"""What is counted, in Prometheus's text format: of one process, or of whole queues as one look at each shows them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from looks import Look
from metrics import FAMILIES, Amounts, Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "microbatch_"
WORKER_STATES = ("warming", "idle", "busy", "breaker_open", "gone")
GAUGES: dict[str, tuple[str, Callable[[Look], float]]] = {
    "queue_depth": ("Unfinished jobs, waiting or with a batcher.", lambda look: look.depth),
    "jobs_waiting": ("Jobs that wait for a batcher.", lambda look: look.waiting),
    "jobs_in_flight": ("Jobs that a batcher holds.", lambda look: look.in_flight),
    "oldest_waiting_job_age_seconds": ("Age of the job that waits longest; 0: none.", lambda look: look.oldest_s),
    "dead_letters": ("Jobs on the list of those given up.", lambda look: look.dead),
    "results_uncollected": ("Results that wait for their client.", lambda look: look.uncollected),
    "requests_in_progress": ("Requests not answered yet.", lambda look: sum(api.in_progress for api in look.apis)),
    "held_bytes": ("What apis hold of requests.", lambda look: sum(api.held_bytes for api in look.apis)),
    "api_processes": ("Api processes alive.", lambda look: len(look.apis)),
}
EVENTS = {
    "submitted": ("jobs_submitted", "Jobs taken into the queue."),
    "claimed": ("jobs_claimed", "Jobs given to batchers, each time they were."),
    "settled": ("jobs_settled", "Jobs that got their result."),
    "released": ("retries", "Jobs that batchers gave back, to be run again."),
    "leases_ended": ("reclaims", "Jobs taken back from batchers that died or hung, to be run again."),
    "died": ("call_deaths", "Jobs taken back from a model's own process that hung and was ended, to be run again."),
    "settle_refused": ("settles_refused", "Results that came for jobs which were over or another's by then."),
    "buried": ("jobs_given_up", "Jobs that ended every process which ran them."),
    "torn": ("jobs_torn", "Jobs whose row in Redis could not be read or was incomplete."),
}
Looks = Mapping[str, Look]


def of_process(amounts: Amounts, labels: Mapping[str, str]) -> bytes:
    """Return what one process has counted, under these labels."""
    return _text(_counted({tuple(labels.values()): amounts}, tuple(labels)))


def of_queues(looks: Mapping[str, Look | None], *, worker_timeouts_s: Mapping[str, float]) -> bytes:
    """Return how each queue stands, by its name; None: its Redis does not answer, and no more is said of it."""
    seen = {name: look for name, look in looks.items() if look}
    totals: dict[tuple[str, ...], Amounts] = {(name,): look.totals for name, look in seen.items()}
    return _text(_standing(looks, seen, worker_timeouts_s), _events(seen), _counted(totals, ("queue",)))


class _Families(CollectorRegistry):
    """What `generate_latest` is given."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Return them as they are."""
        return iter(self._families)


def _text(*parts: Iterator[Metric]) -> bytes:
    return generate_latest(_Families([family for part in parts for family in part]))


def _standing(
    looks: Mapping[str, Look | None], seen: Looks, worker_timeouts_s: Mapping[str, float]
) -> Iterator[Metric]:
    up = GaugeMetricFamily(f"{PREFIX}redis_up", "Whether Redis answers.", labels=["queue"])
    for name, look in looks.items():
        up.add_metric([name], float(look is not None))
    yield up
    for gauge, (text, read) in GAUGES.items():
        family = GaugeMetricFamily(PREFIX + gauge, text, labels=["queue"])
        for name, look in seen.items():
            family.add_metric([name], read(look))
        yield family
    workers = GaugeMetricFamily(f"{PREFIX}workers", "Batchers by state; gone: silent.", labels=["queue", "state"])
    for name, look in seen.items():
        states = Counter[str]("gone" if one.silent_s > worker_timeouts_s[name] else one.state for one in look.workers)
        for state in WORKER_STATES:
            workers.add_metric([name, state], states[state])
    yield workers


def _events(seen: Looks) -> Iterator[Metric]:
    for event, (metric, text) in EVENTS.items():
        family = CounterMetricFamily(PREFIX + metric, text, labels=["queue"])
        for name, look in seen.items():
            family.add_metric([name], look.events.get(event, 0))
        yield family


def _counted(amounts: Mapping[tuple[str, ...], Amounts], names: tuple[str, ...]) -> Iterator[Metric]:
    """Yield all families; amounts: by the values of the labels `names`."""
    for family in FAMILIES:
        kind = HistogramMetricFamily if family.buckets else CounterMetricFamily
        shown = kind(PREFIX + family.name, family.help, labels=[*names, *family.labels])
        for outer, all_amounts in amounts.items():
            for inner, by_end in _series(family, all_amounts).items():
                _add(shown, family, [*outer, *inner], by_end)
        yield shown


def _series(family: Family, amounts: Amounts) -> dict[tuple[str, ...], dict[str, float]]:
    """Return a family's amounts by the values of its labels; what needs none is there from the beginning."""
    found: defaultdict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    if not family.labels:
        found[()] = {}
    for name, amount in amounts.items():
        head, *words = name.split(" ")
        if head == family.name and len(words) == len(family.labels) + bool(family.buckets):
            inner, end = (tuple(words[:-1]), words[-1]) if family.buckets else (tuple(words), "")
            found[inner][end] = amount
    return found


def _add(
    shown: HistogramMetricFamily | CounterMetricFamily, family: Family, labels: list[str], by_end: dict[str, float]
) -> None:
    if isinstance(shown, CounterMetricFamily):
        shown.add_metric(labels, by_end.get("", 0.0))
        return
    seen, buckets = 0.0, []
    for end in (*family.buckets, float("inf")):
        seen += by_end.get(f"{end:g}", 0.0)
        buckets.append(("+Inf" if end == float("inf") else f"{end:g}", seen))
    shown.add_metric(labels, buckets, by_end.get("sum", 0.0))
