"""What a matrix of accuracies says about learning in sequence.

`R[i][j]` is the accuracy on task j after task i was learned, both counted from 0; T tasks.
Accuracies before a task was learned (j > i) may be missing, NaN or None: a learner with conditions
has none. They count for the forward transfer only.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from ghn.errors import ShapeError

__all__ = ["Metrics", "metrics"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Summary of a matrix of accuracies, in the matrix's unit.

    Attributes:
        average_accuracy: Mean over j of `R[T-1][j]`: how good all tasks are in the end.
        learning_accuracy: Mean over j of `R[j][j]`: how good each task was when it was new.
        backward_transfer: Mean over j < T-1 of `R[T-1][j]` - `R[j][j]`; negative means forgetting
            (Lopez-Paz and Ranzato 2017, arXiv 1706.08840).
        forgetting_from_first: Mean over j < T-1 of `R[j][j]` - `R[T-1][j]`, first minus last, as in
            Avalanche: minus the backward transfer.
        forgetting_from_best: Mean over j < T-1 of max over j <= i < T-1 of `R[i][j]`, minus
            `R[T-1][j]`: the best is among the accuracies since the task was learned, the last one
            left out, so that it is negative if the last is the best (Chaudhry et al. 2018, arXiv
            1801.10112).
        forward_transfer: Mean over j > 0 of `R[j-1][j]` - `chance[j]`; None if these are missing.
        transfer_to_new: Mean over j > 0 of `R[j][j]` - `alone[j]`, where `alone[j]` is what a
            network of its own reaches on task j; None without `alone`.
    """

    average_accuracy: float
    learning_accuracy: float
    backward_transfer: float
    forgetting_from_first: float
    forgetting_from_best: float
    forward_transfer: float | None
    transfer_to_new: float | None


def metrics(
    matrix: Any, *, chance: Sequence[float] | None = None, alone: Sequence[float] | None = None
) -> Metrics:
    """Summarise a square matrix of accuracies.

    Args:
        matrix: R, as in the module's docstring, as lists, an array or a tensor; rows may stop at
            the diagonal.
        chance: Accuracy on each task before anything was learned, for the forward transfer.
        alone: Accuracy of a network of its own on each task.

    Raises:
        ShapeError: If a row lacks a number up to the diagonal, or the other lists have another
            length.

    Example:
        >>> metrics([[0.9], [0.7, 0.8]]).backward_transfer
        -0.2
    """
    matrix = _rows(matrix)
    count = len(matrix)
    for name, other in (("chance", chance), ("alone", alone)):
        if other is not None and len(other) != count:
            raise ShapeError(f"{name} needs {count} numbers, one for each task, got {len(other)}")
    last = matrix[-1]
    new = [matrix[j][j] for j in range(count)]
    first = [round(new[j] - last[j], 12) for j in range(count - 1)]
    best = [max(matrix[i][j] for i in range(j, count - 1)) - last[j] for j in range(count - 1)]
    return Metrics(
        average_accuracy=statistics.fmean(last[:count]),
        learning_accuracy=statistics.fmean(new),
        backward_transfer=-_mean(first),
        forgetting_from_first=_mean(first),
        forgetting_from_best=_mean(best),
        forward_transfer=_forward(matrix, chance),
        transfer_to_new=None
        if alone is None or count < 2
        else _mean([new[j] - alone[j] for j in range(1, count)]),
    )


def _rows(matrix: Any) -> list[list[float]]:
    """Return the rows as lists of numbers, NaN for None, after checking the lower triangle."""
    plain = matrix.tolist() if hasattr(matrix, "tolist") else matrix
    try:
        rows = [[math.nan if v is None else float(v) for v in row] for row in plain]
    except (TypeError, ValueError):
        rows = []
    known = [row[: i + 1] for i, row in enumerate(rows)]
    if not rows or any(len(k) <= i or any(map(math.isnan, k)) for i, k in enumerate(known)):
        raise ShapeError(
            "a matrix of accuracies needs a row for each task, with a number for each task up to "
            f"its diagonal, got {matrix!r}"
        )
    return rows


def _forward(matrix: list[list[float]], chance: Sequence[float] | None) -> float | None:
    count = len(matrix)
    if chance is None or count < 2 or any(len(matrix[j - 1]) <= j for j in range(1, count)):
        return None
    gains = [matrix[j - 1][j] - chance[j] for j in range(1, count)]
    return None if any(map(math.isnan, gains)) else _mean(gains)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
