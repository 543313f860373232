"""Measure the service beside the floor and the bare loop: `python -m bench.run [--full] [--readme]`, or `make bench`.

The *floor* is a FastAPI route that reads the body and answers a constant, with the same flags and garbage collection;
the *bare loop* is our own decoding and the same model in plain processes, one a core; the *limit* is what the model
could do. All are measured in turns of one run, since the machine is not the same from minute to minute: a figure is
the median of all turns, a ratio the median of the ratios of each turn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench import measuring, report
from bench.measuring import FULL, QUICK, Row
from bench.tables import table
from errors import StartError
from tools.processes import say

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure, write the results and print them."""
    parser = argparse.ArgumentParser(description="Measure the service beside the floor and the bare loop.")
    parser.add_argument("--full", action="store_true", help="everything, for some ten minutes")
    parser.add_argument("--plan", help="only plans whose name has this in it")
    parser.add_argument("--readme", action="store_true", help="put the table and plots into README.md too")
    options = parser.parse_args()
    if options.readme and (options.plan or not options.full):
        parser.error("--readme tells of a whole --full run")
    try:
        rows = list(_measure(options.plan or "", full=options.full))
    except (StartError, RuntimeError) as exc:
        say(f"bench: {exc}")
        return 1
    file = RESULTS / ("full.json" if options.full else "quick.json")
    report.write(rows, file)
    print("\n".join(table(report.cells(rows))))
    say(f"written to {file}")
    if options.readme:
        report.update_readme(rows, RESULTS)
    return 0


def _measure(wanted: str, *, full: bool) -> Iterator[Row]:
    size = FULL if full else QUICK
    plans = {"overhead": measuring.overhead, "photos": measuring.images}
    if full:
        plans |= {
            "model-bound 1": partial(measuring.model_bound, batchers=1),
            "model-bound 2": partial(measuring.model_bound, batchers=2),
            "weight-bound": measuring.weight_bound,
            "arithmetic-bound": measuring.arithmetic_bound,
            "arrivals": measuring.arrivals,
        }
    for name, plan in plans.items():
        if wanted in name:
            for row in plan(size):
                say(f"{row.plan}, {row.target} {row.load}: {row.per_s:,.0f}/s")
                yield row


if __name__ == "__main__":
    sys.exit(main())
