"""Trace every model of a zoo, and say which could not be traced.

Models are built without weights, one after the other in a few processes; an error in one does not
stop the others.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["Traced", "summarize", "trace_all", "trace_one"]


@dataclasses.dataclass(frozen=True)
class Traced:
    """What tracing one model gave.

    Attributes:
        name: The model's name as the command line takes it.
        seconds: Time to build the model on the meta device and trace it.
        nodes: Number of operators.
        other: Number of operators outside the vocabulary.
        parameters: Number of parameters that the forward pass used, tied ones counted once.
        untouched: Number of parameters that the forward pass never used.
        error: Why tracing failed; empty if it did not.
    """

    name: str
    seconds: float
    nodes: int = 0
    other: int = 0
    parameters: int = 0
    untouched: int = 0
    error: str = ""


def trace_one(name: str) -> Traced:
    """Build a model on the meta device and trace it; a failure becomes part of the result."""
    from ghn.graphs import trace
    from ghn.zoo.library import resolve_model

    start = time.perf_counter()
    try:
        graph = trace(resolve_model(name, device="meta"))
    except Exception as error:
        return Traced(name, time.perf_counter() - start, error=f"{type(error).__name__}: {error}")
    return Traced(
        name,
        time.perf_counter() - start,
        nodes=len(graph.nodes),
        other=sum(node.op == "other" for node in graph.nodes),
        parameters=len(graph.specs),
        untouched=len(graph.untouched),
    )


def trace_all(
    names: Iterable[str],
    jobs: int = 2,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> list[Traced]:
    """Trace many models.

    Args:
        names: Names as the command line takes them, such as `"timm:resnet50"`.
        jobs: Number of processes; 1 stays in this one.
        progress: Called with (done, total, name) after each model.

    Returns:
        One result a name, in the order of the names.
    """
    names = list(names)
    results: dict[str, Traced] = {}

    def note(result: Traced) -> None:
        results[result.name] = result
        progress(len(results), len(names), result.name)

    if jobs == 1:
        for name in names:
            note(trace_one(name))
    else:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_use_one_thread
        ) as pool:
            for future in concurrent.futures.as_completed(
                [pool.submit(trace_one, name) for name in names]
            ):
                note(future.result())
    return [results[name] for name in names]


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def summarize(results: list[Traced]) -> dict[str, Any]:
    """Return totals: models, failures, share of unknown operators, parameters, median time."""
    nodes = sum(r.nodes for r in results)
    return {
        "models": len(results),
        "failed": sum(bool(r.error) for r in results),
        "nodes": nodes,
        "other_share": sum(r.other for r in results) / max(1, nodes),
        "parameters": sum(r.parameters for r in results),
        "untouched": sum(r.untouched for r in results),
        "median_seconds": statistics.median(r.seconds for r in results) if results else 0.0,
    }
