"""Tables in a terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def table(rows: Sequence[Sequence[str]], *, markdown: bool = False) -> Iterator[str]:
    """Yield the lines of a table whose first row is its header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    start, between, end = ("| ", " | ", " |") if markdown else ("", "  ", "")
    for number, row in enumerate(rows):
        yield start + between.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + end
        if number == 0:
            rule = [("-" * (width - 1)) + ":" if markdown else "-" * width for width in widths]
            yield start + between.join(rule) + end
