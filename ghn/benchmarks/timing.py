"""How long work takes: on a number of threads, in turn with what it is compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["clock", "median_seconds", "threads_of_torch"]


def clock(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds a piece of work took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def median_seconds(
    works: Mapping[str, Callable[[], Any]],
    repeats: int,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> dict[str, float]:
    """Run pieces of work in turn, so that a machine that slows down slows all of them.

    Args:
        works: Names to what is run.
        repeats: Rounds that count, after one that does not.
        progress: Called with (rounds done, rounds in all, name).

    Returns:
        Median seconds under each name.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for done in range(repeats + 1):
        for name, work in works.items():
            progress(done, repeats + 1, name)
            times[name].append(clock(work)[0])
    progress(repeats + 1, repeats + 1, "")
    return {name: statistics.median(values[1:]) for name, values in times.items()}


@contextmanager
def threads_of_torch(number: int) -> Iterator[None]:
    """Run with a number of threads of torch; set back at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
