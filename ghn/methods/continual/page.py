"""A run's report as a page: the table, what each method keeps, how it was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ghn.pages import (
    Details,
    Figure,
    Figures,
    Line,
    Points,
    Report,
    Table,
    facts_of,
    line_key,
    line_plot,
    matrix_plot,
)

if TYPE_CHECKING:
    from ghn.methods.continual.report import Result, Row

__all__ = ["continual_report", "mean_matrix"]

MOST_WRITTEN = 10  # tasks, beyond which the squares of a matrix have no room for numbers
METHOD = (
    "Average accuracy: over all tasks after the last. When new: of each task right after it was "
    "learned.",
    "Backward transfer: what a task gained or lost since it was new, mean over all but the last. "
    "Forgetting from best: how far a task is below the best it ever had.",
    "First task: its accuracy after the last one. Seconds: spent on learning, one process.",
    "Values are means ± standard deviations over seeds, in percent.",
)


def continual_report(result: Result, record: Mapping[str, Any]) -> Report:
    """Return the report of a run.

    Args:
        result: What the run gave.
        record: Where it comes from: command, seeds, machine, versions.
    """
    groups = result.by_method()
    accuracies = {m: [row.metrics().average_accuracy for row in rows] for m, rows in groups.items()}
    best = max(accuracies, key=lambda method: statistics.fmean(accuracies[method]))
    report = Report(
        title=result.title,
        subtitle=f"ghn run continual, {record.get('date', '')}",
        verdict=f"Most accurate on all tasks after the last: {best}, "
        f"{statistics.fmean(accuracies[best]):.1f} %.",
        command=record["command"],
        facts=facts_of(record),
    )
    lines = [_so_far(method, rows) for method, rows in groups.items()]
    low = min(value for row in result.rows for line in row.matrix for value in line)
    matrices = [Figure(_matrix(rows, low), f"{m}: accuracy, %") for m, rows in groups.items()]
    report.add(
        Table(*result.table(), heading="Methods"),
        Figures(
            [
                Figure(
                    line_plot(lines, "tasks learned", "accuracy on these, %"),
                    "Mean accuracy on the tasks learned so far; mean and range over seeds",
                )
            ],
            key=line_key(lines),
            heading="While tasks are learned",
        ),
        Figures(matrices, heading="Each task after each task"),
        Points(METHOD, heading="How it was measured"),
        Details("All numbers as JSON", result.to_dict()),
    )
    return report


def mean_matrix(matrices: Sequence[Sequence[Sequence[float]]]) -> list[list[float | None]]:
    """Return the mean over runs of matrices of accuracies, None where a task is not learned."""
    count = len(matrices[0])
    return [
        [statistics.fmean(m[i][j] for m in matrices) if j <= i else None for j in range(count)]
        for i in range(count)
    ]


def _so_far(method: str, rows: list[Row]) -> Line:
    runs = [[statistics.fmean(row[: i + 1]) for i, row in enumerate(r.matrix)] for r in rows]
    return Line(method, range(1, len(runs[0]) + 1), runs)


def _matrix(rows: list[Row], low: float) -> str:
    matrix = mean_matrix([row.matrix for row in rows])
    names = [str(i + 1) for i in range(len(matrix))]
    form = "{:.0f}" if len(matrix) <= MOST_WRITTEN else ""
    return matrix_plot(matrix, names, names, "on task", "after task", form, (low, 100.0))
