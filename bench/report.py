"""What was measured, as JSON, as a table, and as plots for the README."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from os import cpu_count
from pathlib import Path
from statistics import median

import orjson

from bench.measuring import Row
from bench.tables import table
from tools.local_redis import find_redis

PACKAGES = ("fastapi", "uvicorn", "uvloop", "redis", "hiredis", "numpy", "pillow")
README = Path(__file__).resolve().parent.parent / "README.md"
HEADER = [
    "what",
    "clients",
    "ours, 1/s",
    "reference",
    "1/s",
    "ratio",
    "p50 ms",
    "its p50",
    "p99 ms",
    "its p99",
    "CPU s/1,000",
    "its CPU",
]


@dataclass(frozen=True, slots=True)
class Figure:
    """The medians of one target at one load."""

    per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_s_per_1000: float | None


def write(rows: Sequence[Row], file: Path, **more: object) -> None:
    """Write all rows, on what they were measured, and what more there is to say."""
    file.parent.mkdir(exist_ok=True)
    document = {"measured": machine(), **more, "rows": [asdict(row) for row in rows]}
    file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def machine() -> dict[str, object]:
    """Return what tells this machine and its software apart."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": _processor(),
        "cores": cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "redis": find_redis().version,
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return the texts of a table, its header first: ours at each load beside what it is held against."""
    return [HEADER, *_cells(rows)]


def _cells(rows: Sequence[Row]) -> Iterator[list[str]]:
    for plan, load in dict.fromkeys((row.plan, row.load) for row in rows if row.target == "ours"):
        ours = [row for row in rows if (row.plan, row.load, row.target) == (plan, load, "ours")]
        others = [row for row in rows if row.plan == plan and row.reference and row.load in (load, "")]
        mine, its = figure(ours), figure(others) if others else None
        ratio = median(one.per_s / other.per_s for one, other in zip(ours, others, strict=True)) if its else None
        yield [
            plan,
            load,
            f"{mine.per_s:,.0f}",
            others[0].target if others else "",
            f"{its.per_s:,.0f}" if its else "",
            _number(ratio),
            _number(mine.p50_ms),
            _number(its.p50_ms if its else None),
            _number(mine.p99_ms),
            _number(its.p99_ms if its else None),
            _number(mine.cpu_s_per_1000, 3),
            _number(its.cpu_s_per_1000 if its else None, 3),
        ]


def figure(rows: Iterable[Row]) -> Figure:
    """Return the medians of looks at one thing."""
    looks = list(rows)
    return Figure(
        median(row.per_s for row in looks),
        *(
            median(known) if (known := [value for row in looks if (value := getattr(row, name)) is not None]) else None
            for name in ("p50_ms", "p99_ms", "cpu_s_per_1000")
        ),
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def update_readme(rows: Sequence[Row], folder: Path) -> None:
    """Put the table, and the plots drawn into a folder, between the README's marks."""
    plot(rows, folder / "overhead.svg")
    told = machine()
    how = (
        f"`make bench-full` on {told['cores']} cores of {told['processor']}, Redis {told['redis']}, Python "
        f"{told['python']}: medians of the turns of one run. The *floor* is a FastAPI route that reads the body and "
        "answers a constant, the *bare loop* the same decoding and model without a server, the *limit* what the model "
        "could do."
    )
    plots = "![Latency against throughput; processor time per 1,000 requests](bench/results/overhead.svg)"
    lines = [how, "", *table(cells(rows), markdown=True), "", plots, ""]
    put_into_readme("bench", lines)


def section(name: str) -> re.Pattern[str]:
    """Return what finds the README's part between two marks of this name."""
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)


def put_into_readme(name: str, lines: Sequence[str]) -> None:
    """Replace what is between the marks of this name."""
    README.write_text(section(name).sub(lambda found: found[1] + "\n".join(lines) + found[2], README.read_text()))


def plot(rows: Sequence[Row], file: Path) -> None:
    """Draw latency against throughput, and processor time per 1,000 requests, of the overhead plan."""
    import matplotlib as mpl  # noqa: PLC0415  # a second to import, and needed for this alone

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  # after the choice of what draws

    figures, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for target in ("floor", "ours"):
        mine = [row for row in rows if (row.plan, row.target) == ("overhead", target)]
        loads = list(dict.fromkeys(row.load for row in mine))
        medians = [figure(row for row in mine if row.load == load) for load in loads]
        for quantile, style in (("p50_ms", "o-"), ("p99_ms", "x--")):
            left.plot(
                [one.per_s for one in medians],
                [getattr(one, quantile) for one in medians],
                style,
                label=f"{target}, {quantile[:3]}",
                color="tab:grey" if target == "floor" else "tab:blue",
            )
        places = [number + (0.2 if target == "ours" else -0.2) for number in range(len(loads))]
        right.bar(
            places,
            [one.cpu_s_per_1000 or 0.0 for one in medians],
            0.4,
            label=target,
            color="tab:grey" if target == "floor" else "tab:blue",
        )
        right.set_xticks(range(len(loads)), loads)
    left.set(xlabel="requests a second", ylabel="ms", yscale="log", title="1 to 1,000 clients, 3 KB tensors")
    right.set(xlabel="clients", ylabel="s", title="CPU s per 1,000 requests, all processes")
    left.legend()
    right.legend()
    figures.savefig(file)
    plt.close(figures)
