"""How an overview of a queue looks in a terminal, 80 columns and wider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from overview import Overview

BLOCKS = " ▁▂▃▄▅▆▇█"
CHART_LINES = 3
COLUMN = 5
FIGURE = 20
STATE_STYLES = {"idle": "green", "busy": "green", "warming": "yellow", "breaker_open": "red", "gone": "red"}
NOTHING = "-"


def board(queue_name: str, now: Overview, batch_sizes: Mapping[str, int], *, span_s: float) -> RenderableType:
    """Return the whole: how the queue stands, the batches of the last `span_s` by their size, and each batcher."""
    return Group(
        _title(queue_name, now), Text(), *_figures(now), Text(), *_chart(batch_sizes, span_s), Text(), _workers(now)
    )


def away(queue_name: str, why: str) -> RenderableType:
    """Return what is shown while Redis does not answer."""
    return Group(_line(("queue ", "dim"), (queue_name, "bold")), Text(), Text(why, "red"))


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _title(queue_name: str, now: Overview) -> Text:
    models = " ".join(sorted({worker.model for worker in now.workers}))
    clock = f"{datetime.fromtimestamp(now.time).astimezone():%H:%M:%S}"
    return _line((f"{clock}  queue ", "dim"), (queue_name, "bold"), (f"  {models}", "dim"))


def _figures(now: Overview) -> Iterable[Text]:
    yield _named(
        ("depth", f"{now.depth:,}"),
        ("waiting", f"{now.waiting:,}"),
        ("in flight", f"{now.in_flight:,}"),
        ("oldest", _time(now.oldest_s or None)),
    )
    yield _named(
        ("in progress", f"{now.in_progress:,}"),
        ("requests/s", f"{now.requests_per_s:,.0f}"),
        ("images/s", f"{now.images_per_s:,.0f}"),
        ("errors/s", f"{now.errors_per_s:,.1f}", now.errors_per_s > 0),
    )
    yield _named(
        ("p50", _time(now.p50_s)),
        ("p99", _time(now.p99_s)),
        ("queue p50", _time(now.queue_p50_s)),
        ("model p50", _time(now.model_p50_s)),
    )
    alive = sum(worker.state != "gone" for worker in now.workers)
    yield _named(("dead letters", f"{now.dead:,}", now.dead > 0), ("batchers", f"{alive:,}", not alive))


def _named(*figures: tuple[str, str] | tuple[str, str, bool]) -> Text:
    """Return figures behind their names, in columns; the third says whether one is bad."""
    parts = []
    for name, figure, *bad in figures:
        parts += [(f"{name} ", "dim"), (f"{figure:<{FIGURE - len(name) - 1}}", "bold red" if any(bad) else "bold")]
    return _line(*parts)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _chart(batch_sizes: Mapping[str, int], span_s: float) -> Iterable[Text]:
    """Yield a column for each bucket of sizes, up to the largest that was met."""
    counts = list(batch_sizes.values())
    used = max((place + 1 for place, count in enumerate(counts) if count), default=0)
    most = max(counts, default=0)
    ends = ["more" if end == "inf" else end for end in batch_sizes][:used]
    yield _line((f"{sum(counts):,} batches in {span_s:.0f} s, of up to so many images", "dim"))
    for line in reversed(range(CHART_LINES)):
        yield _line(("".join(_piece(count, most, line) for count in counts[:used]), "cyan"))
    yield _line(("".join(f"{end:^{COLUMN}}" for end in ends), "dim"))
    yield _line(("".join(f"{_short(count):^{COLUMN}}" for count in counts[:used]), ""))


def _short(count: int) -> str:
    return f"{count}" if count < 10_000 else f"{count / 1000:.0f}k"


def _piece(count: int, most: int, line: int) -> str:
    """Return what a column shows in one line of the chart, the lowest being 0; no batch at all shows nothing."""
    eighths = max(1, round(count / most * CHART_LINES * 8)) if count else 0
    return f"{BLOCKS[min(8, max(0, eighths - line * 8))] * (COLUMN - 1):^{COLUMN}}"


def _workers(now: Overview) -> RenderableType:
    if not now.workers:
        return Text("no batcher", "bold red")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("batcher", overflow="ellipsis")  # the only one that gives way
    table.add_column("state", no_wrap=True)
    for name in ("busy", "batches/s", "images/s", "a batch", "last word"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in now.workers:
        table.add_row(
            one.id,
            Text(one.state.replace("_", " "), STATE_STYLES.get(one.state, "")),
            f"{one.busy:.0%}",
            f"{one.batches_per_s:,.1f}",
            f"{one.images_per_s:,.1f}",
            _time(one.batch_s or None),
            f"{one.silent_s:.1f} s",
        )
    return table
