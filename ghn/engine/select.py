"""Which parameters are predicted, and why the others keep their own values.

What is predicted behind a weight that keeps its own values reads signals it was not predicted for.
Where they may go round that weight, in a residual branch, this does no harm. Where all signals pass
it, weights behind it learned more slowly than a network's own (results/training-choices.md): they
stay too.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from ghn.engine.guards import is_predictable
from ghn.engine.support import Support
from ghn.errors import ConfigError
from ghn.graphs.graph import ParamGraph
from ghn.graphs.structure import trunk

__all__ = ["Generate", "Unsupported", "keep_reasons", "selection_notes"]

Generate = str | Sequence[str] | Callable[[str], bool] | None
Unsupported = Literal["keep", "predict"]


def keep_reasons(
    graph: ParamGraph,
    parameters: Mapping[str, Tensor],
    support: Support,
    generate: Generate = None,
    unsupported: Unsupported = "keep",
) -> dict[str, str | None]:
    """Return for each parameter why it is kept, or None if it is predicted.

    Args:
        graph: The model's graph.
        parameters: The model's parameters by leading name.
        support: What the hypernetwork was trained for.
        generate: Globs or a predicate on names; a tied parameter is selected by any of its names.
        unsupported: Whether to keep or predict what `support` calls unsupported.

    Raises:
        ConfigError: If `generate` is of another kind, a glob fits no name, or `unsupported` is
            neither of its values.
    """
    if unsupported not in ("keep", "predict"):
        raise ConfigError(f"unsupported must be 'keep' or 'predict', got {unsupported!r}")
    selected = _selected(parameters, graph.aliases, generate)
    reasons = {
        name: "not-selected"
        if name not in selected
        else _reason(graph, name, parameter, support, unsupported)
        for name, parameter in parameters.items()
    }
    if unsupported == "keep" and (first := _barrier(graph, reasons)):
        late = [name for name in _behind(graph, first) if not reasons[name]]
        reasons |= dict.fromkeys(late, "unsupported")
    return reasons


def selection_notes(graph: ParamGraph, reasons: Mapping[str, str | None]) -> tuple[str, ...]:
    """Say, in a sentence, what keeps its values only since something before it does.

    Args:
        graph: The model's graph.
        reasons: As `keep_reasons` returns them.
    """
    first = _barrier(graph, reasons)
    if first is None or all(reasons[name] != "unsupported" for name in _behind(graph, first)):
        return ()
    return (
        f"the checkpoint has not learned what {first} does, and all signals pass it: what comes "
        "behind keeps its own values too (unsupported='predict' predicts all)",
    )


def _barrier(graph: ParamGraph, reasons: Mapping[str, str | None]) -> str | None:
    """Return the first unsupported weight that all signals pass, but for one that reads the input.

    A model whose first layer is unsupported, as for images of one channel, is predicted from there.
    """
    found = [
        name
        for name, reason in reasons.items()
        if reason == "unsupported"
        and (spec := graph.specs[name]).role == "weight"
        and spec.fan_in
        and spec.node in trunk(graph)
        and not (spec.stem or spec.head)
    ]
    return min(found, key=lambda name: graph.specs[name].node, default=None)


def _behind(graph: ParamGraph, name: str) -> list[str]:
    """Return the parameters of nodes that read, through whatever others, what one computes."""
    node = graph.specs[name].node
    reached = {node}
    for start, end in graph.edges:
        if start in reached:
            reached.add(end)
    reached.discard(node)
    return [other for other, spec in graph.specs.items() if spec.node in reached]


def _reason(
    graph: ParamGraph, name: str, parameter: Tensor, support: Support, unsupported: Unsupported
) -> str | None:
    if name not in graph.specs:
        return "untouched"
    if not is_predictable(parameter):
        return "unsupported"
    reason = support.reason(graph, graph.specs[name])
    return None if reason == "unsupported" and unsupported == "predict" else reason


def _selected(
    parameters: Mapping[str, Tensor], aliases: Mapping[str, str], generate: Generate
) -> set[str]:
    """Return the leading names that `generate` selects."""
    if generate is None:
        return set(parameters)
    leading = {**{name: name for name in parameters}, **aliases}
    if callable(generate):
        return {first for name, first in leading.items() if generate(name)}
    globs = [generate] if isinstance(generate, str) else generate
    if not isinstance(globs, Iterable) or not all(isinstance(glob, str) for glob in globs):
        raise ConfigError(
            "generate must be a glob such as 'head.*', a list of globs, or a function of a "
            f"parameter's name, got {generate!r}"
        )
    chosen: set[str] = set()
    for pattern in globs:
        hits = {first for name, first in leading.items() if fnmatch.fnmatchcase(name, pattern)}
        if not hits:
            raise ConfigError(
                f"generate={pattern!r} fits no parameter name; names look like "
                f"{', '.join(list(parameters)[:3])}"
            )
        chosen |= hits
    return chosen
