"""Trace every model of a zoo, and say which could not be traced.

Each model is built without weights and traced in a process of its own. Results are appended to a
journal as they come, so that a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ghn.benchmarks.processes import Failure, Limits, run_each
from ghn.errors import InputError
from ghn.io import append_line

__all__ = ["MANY_UNTOUCHED", "Traced", "summarize", "trace_all", "trace_one"]

# A model with a larger share of its parameters untouched does not count as traced.
MANY_UNTOUCHED = 0.2


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
        reasons: Why they are untouched, and the number of parameters for each reason.
        assumptions: What the trace took for granted.
        group: Kind of failure; empty if there was none.
        error: Why tracing failed; empty if it did not.
    """

    name: str
    seconds: float
    nodes: int = 0
    other: int = 0
    parameters: int = 0
    untouched: int = 0
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    group: str = ""
    error: str = ""

    @property
    def counted(self) -> bool:
        """Whether the trace is complete and reaches nearly all parameters."""
        share = self.untouched / max(1, self.untouched + self.parameters)
        return not self.error and share < MANY_UNTOUCHED


def trace_one(name: str) -> Traced:
    """Build a model on the meta device and trace it; a failure becomes part of the result."""
    from ghn.graphs import trace
    from ghn.zoo.library import resolve_model

    start = time.perf_counter()
    built = False
    try:
        model = resolve_model(name, device="meta", bare=True)
        built = True
        graph = trace(model)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return Traced(
            name, time.perf_counter() - start, error=text, group=_group(error, text, built)
        )
    return Traced(
        name,
        time.perf_counter() - start,
        nodes=len(graph.nodes),
        other=sum(node.op == "other" for node in graph.nodes),
        parameters=len(graph.specs),
        untouched=len(graph.untouched),
        reasons=dict(Counter(graph.reasons.values())),
        assumptions=graph.assumptions,
    )


def _group(error: BaseException, text: str, built: bool) -> str:
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ImportError):
            return "needs a package that is not installed"
        if isinstance(chain, MemoryError):
            return "too large"
        chain = chain.__cause__
    if not built:
        return "cannot be built with its default config"
    if 'missing the required "forward"' in text:
        return "has no forward pass"
    return "no inputs found" if isinstance(error, InputError) else "forward pass failed"


def trace_all(
    names: Iterable[str],
    jobs: int = 2,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
    limits: Limits | None = None,
    journal: Path | None = None,
) -> list[Traced]:
    """Trace many models, each in a process of its own.

    Args:
        names: Names as the command line takes them, such as `"timm:resnet50"`.
        jobs: Number of processes at a time.
        progress: Called with (done, total, name) after each model.
        limits: What one model may take.
        journal: File that results are appended to; models that are in it are not traced again.

    Returns:
        One result a name, in the order of the names.
    """
    names = list(names)
    results = {r.name: r for r in _read_journal(journal)} if journal else {}
    results = {n: results[n] for n in names if n in results}
    missing = [n for n in names if n not in results]
    for name, found in run_each(trace_one, missing, jobs, limits or Limits()):
        result = found
        if isinstance(found, Failure):
            result = Traced(name, found.seconds, error=found.text, group=found.group)
        results[name] = result
        if journal is not None:
            append_line(journal, json.dumps(dataclasses.asdict(result)))
        progress(len(results), len(names), name)
    return [results[name] for name in names]


def _read_journal(journal: Path) -> Iterator[Traced]:
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            value = json.loads(line)
            yield Traced(**{**value, "assumptions": tuple(value["assumptions"])})
        except (ValueError, KeyError, TypeError):  # cut off when the sweep was killed
            continue


def summarize(results: list[Traced]) -> dict[str, Any]:
    """Return totals: models, counted ones, failures by group, unknown operators, times."""
    nodes = sum(r.nodes for r in results)
    groups = Counter(r.group for r in results if r.error)
    return {
        "models": len(results),
        "counted": sum(r.counted for r in results),
        "many_untouched": sum(not r.error and not r.counted for r in results),
        "failed": sum(bool(r.error) for r in results),
        "failed_by_group": dict(groups.most_common()),
        "nodes": nodes,
        "other_share": sum(r.other for r in results) / max(1, nodes),
        "parameters": sum(r.parameters for r in results),
        "untouched": sum(r.untouched for r in results),
        "seconds": sum(r.seconds for r in results),
        "median_seconds": statistics.median(r.seconds for r in results) if results else 0.0,
    }
