"""What `deploy/observe` asks of the service, and what the service shows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from exposition import of_process, of_queues
from looks import Look
from metrics import FAMILIES, Metrics

OBSERVE = Path(__file__).parents[1] / "deploy" / "observe"
DASHBOARD = OBSERVE / "grafana" / "dashboards" / "microbatch.json"
SERIES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@dataclass(frozen=True, slots=True)
class Shown:
    """A metric as Prometheus reads it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    def row(self) -> str:
        """Return its row in the table of all metrics; the labels that all have are told above it."""
        labels = ", ".join(f"`{label}`" for label in self.labels if label not in ("queue", "worker", "le"))
        name = self.name + ("_total" if self.kind == "counter" else "")
        return f"| `{name}` | {self.kind} | {labels} | {self.meaning} |"


def shown() -> list[Shown]:
    """Return all that an api shows of a queue, once something of each was counted."""
    return _read(of_queues({"q": _look()}, worker_timeout_s=5))


def shown_of_a_batcher() -> list[Shown]:
    return _read(of_process(_counted().add_up(), {"worker": "w"}))


def _counted() -> Metrics:
    metrics = Metrics()
    metrics.redis_replied("submit", 0.001)
    for family in FAMILIES:
        if not family.buckets:
            metrics.count(family, *family.labels)
    return metrics


def _look() -> Look:
    return Look(1.0, 0, 0, 0, 0.0, 0, 0, {}, _counted().add_up(), (), ())


def _read(text: bytes) -> list[Shown]:
    return [
        Shown(
            family.name,
            family.type,
            tuple({label: 0 for one in family.samples for label in one.labels}),
            family.documentation,
        )
        for family in text_string_to_metric_families(text.decode())
    ]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels, without the headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Yield each query of the dashboard behind its panel's title and its own letter."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]


def rules() -> dict[str, str]:
    """Return what each alert asks, by its name."""
    (group,) = yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def named(query: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each of our series that a query names, and the labels it is chosen by."""
    for name, chosen in re.findall(r"(microbatch_\w+)(?:\{([^}]*)\})?", query):
        yield name, set(re.findall(r"(\w+)\s*(?:=|!)", chosen))
