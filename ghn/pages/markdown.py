"""Tables as Markdown, for results that are read on a page of the repository."""

from __future__ import annotations

__all__ = ["markdown_table"]


def markdown_table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table.

    Args:
        columns: Headings; one that starts with `>` is set flush right.
        rows: Cells, as text.
    """
    names = [c.removeprefix(">") for c in columns]
    lines = ["---:" if c.startswith(">") else "---" for c in columns]
    return ["| " + " | ".join(row) + " |" for row in (names, lines, *rows)]
