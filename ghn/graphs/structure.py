"""Facts about a graph that decide how large its weights should be.

Both follow from the operators and edges alone: which layers feed a rectifier, and where residual
branches end.
"""

from __future__ import annotations

import math

from ghn.graphs.graph import ParamGraph

__all__ = ["magnitude_facts"]

RECTIFIERS = frozenset(
    {"relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu", "hard_swish", "mish", "glu"}
)
# Operators that a layer's output may pass on its way to the rectifier.
_BETWEEN = frozenset(
    {
        *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"),
        *("max_pool", "avg_pool", "pad", "interpolate", "roll"),
    }
)


def magnitude_facts(graph: ParamGraph) -> tuple[list[bool], dict[int, float]]:
    """Return what magnitudes depend on; computed once for each graph.

    Returns:
        For each node whether a rectifier follows it, and for each node that ends a residual branch
        the factor 1 / sqrt(number of residual branches).
    """
    if "magnitude" not in graph.memo:
        before, after = _neighbours(graph)
        ends = _residual_ends(graph, before)
        factor = 1.0 / math.sqrt(max(len(ends), 1))
        graph.memo["magnitude"] = (_rectified(graph, after), dict.fromkeys(ends, factor))
    return graph.memo["magnitude"]


def _neighbours(graph: ParamGraph) -> tuple[list[list[int]], list[list[int]]]:
    before: list[list[int]] = [[] for _ in graph.nodes]
    after: list[list[int]] = [[] for _ in graph.nodes]
    for u, v in graph.edges:
        before[v].append(u)
        after[u].append(v)
    return before, after


def _rectified(graph: ParamGraph, after: list[list[int]]) -> list[bool]:
    """Whether each node's output reaches a rectifier through normalisation and pooling alone."""
    found = [False] * len(graph.nodes)
    for index in range(len(graph.nodes) - 1, -1, -1):
        found[index] = any(
            graph.nodes[v].op in RECTIFIERS or (graph.nodes[v].op in _BETWEEN and found[v])
            for v in after[index]
        )
    return found


def _residual_ends(graph: ParamGraph, before: list[list[int]]) -> set[int]:
    """Return the last node with parameters of each residual branch.

    A sum is residual if what it adds goes back to a common node. Its branch is the longer way, its
    skip the shorter.
    """
    ancestors = _ancestors(graph, before)
    level = [0] * len(graph.nodes)
    for index, sources in enumerate(before):
        level[index] = 1 + max((level[u] for u in sources), default=-1)
    ends: set[int] = set()
    for index, node in enumerate(graph.nodes):
        if node.op != "add" or len(before[index]) != 2:
            continue
        skip, branch = sorted(before[index], key=level.__getitem__)
        if not ancestors[branch] & (ancestors[skip] | 1 << skip):
            continue
        end = _last_with_parameters(graph, before, level, branch)
        if end is not None and not (ancestors[skip] | 1 << skip) >> end & 1:
            ends.add(end)
    return ends


def _ancestors(graph: ParamGraph, before: list[list[int]]) -> list[int]:
    """Return the set of ancestors of each node as a bit mask."""
    masks: list[int] = []
    for sources in before:
        mask = 0
        for u in sources:
            mask |= masks[u] | 1 << u
        masks.append(mask)
    return masks


def _last_with_parameters(
    graph: ParamGraph, before: list[list[int]], level: list[int], index: int
) -> int | None:
    while not graph.nodes[index].parameters:
        if not before[index] or graph.nodes[index].op == "add":
            return None
        index = max(before[index], key=level.__getitem__)
    return index
