"""Tables as Markdown, for results that are read on a page of the repository."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

__all__ = ["markdown_table", "spread"]


def markdown_table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table.

    Args:
        columns: Headings; one that starts with `>` is set flush right.
        rows: Cells, as text.
    """
    names = [c.removeprefix(">") for c in columns]
    lines = ["---:" if c.startswith(">") else "---" for c in columns]
    return ["| " + " | ".join(row) + " |" for row in (names, lines, *rows)]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return mean and standard deviation as text; of one value, which has none, the value."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
