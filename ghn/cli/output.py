"""Where commands write: results to the standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

__all__ = ["complain", "note", "print_json", "print_table", "print_text", "progress_bar"]

# Seconds that an estimate looks back over. Rich's 30 leave none where a piece of work takes longer.
SPEED_OVER = 3600.0


def print_text(text: str) -> None:
    """Write a line to the standard output, as it is."""
    sys.stdout.write(text + "\n")


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Write a table to the standard output.

    Args:
        title: Line above the table.
        columns: Headings; one that starts with `>` is set flush right.
        rows: Cells, as text.
    """
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a pipe or a file has no width to fold lines at
    console.print(title, style="bold", markup=False, highlight=False)  # a table's own would fold
    table = Table()
    for column in columns:
        table.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left"
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def print_json(value: Any) -> None:
    """Write a value to the standard output as one JSON document, and nothing else there."""
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def note(text: str) -> None:
    """Write a remark to the standard error, out of the way of what a program reads."""
    Console(stderr=True).print(text, soft_wrap=True, markup=False, highlight=False)


def complain(text: str) -> None:
    """Write an error message to the standard error."""
    message = Text.assemble(("Error:", "bold red"), " ", text)
    Console(stderr=True).print(message, soft_wrap=True, highlight=False)


class Ticker:
    """Moves one line of a progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def __call__(self, done: float, total: float, text: str = "") -> None:
        """Show that `done` of `total` units are done, and what is being worked on."""
        self._progress.update(self._task, completed=done, total=total, text=text)


@contextmanager
def progress_bar(title: str, *, shown: bool = True) -> Iterator[Ticker]:
    """Show a progress bar with an estimate of the time left on standard error.

    Args:
        title: What is being done.
        shown: Whether it is this process that shows one.

    Yields:
        A function of (done, total, text) that moves the bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[text]}"),
    )
    progress = Progress(
        *columns,
        console=Console(stderr=True),
        speed_estimate_period=SPEED_OVER,
        disable=not shown,
    )
    with progress:
        yield Ticker(progress, progress.add_task(title, total=None, text=""))
