"""From drafts of nodes to a parameter graph: what leads nowhere is left out, the rest numbered."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ghn.graphs.aten import LAYERS
from ghn.graphs.graph import Node, ParamGraph, ParamSpec

__all__ = ["LAYER_OPS", "Draft", "assemble"]

LAYER_OPS = frozenset(LAYERS.values()) | {"depthwise_conv", "conv_transpose"}
_RAW_OPS = frozenset({"pad", "add", "mul", "div", "interpolate", "concat", "clamp"})
_SINK_OPS = frozenset(
    {"softmax", "sigmoid", "mean", "avg_pool", "interpolate", "mul", "div", "index", "clamp"}
)


@dataclasses.dataclass(slots=True)
class Draft:
    """A node under construction.

    Attributes:
        op: Its operator.
        scope: The module that called it.
        attributes: As in `Node`.
        inputs: The drafts that it reads, by number.
        parameters: Names and roles of its parameters.
        channels: Output channels, 0 if unknown.
    """

    op: str
    scope: str = ""
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    parameters: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    channels: int = 0


def assemble(
    drafts: Sequence[Draft],
    specs: Mapping[str, ParamSpec],
    sections: Mapping[int, int],
    names: Sequence[str],
    assumptions: Sequence[str],
) -> ParamGraph:
    """Return the graph of what leads to the output, the last draft, or to a parameter.

    Args:
        drafts: Nodes in topological order.
        specs: Parameters by name; their nodes are numbers of drafts.
        sections: Into how many blocks the outputs of drafts are cut.
        names: Names of all parameters, in the model's order.
        assumptions: What the trace took for granted.
    """
    kept = _kept(drafts)
    position = {old: new for new, old in enumerate(kept)}
    nodes = [
        Node(d.op, d.scope, d.attributes, tuple(d.parameters)) for d in (drafts[i] for i in kept)
    ]
    edges = sorted({(position[u], position[v]) for v in kept for u in drafts[v].inputs})
    stems, heads = _ends(nodes, edges)
    reading = {end for _, end in edges}
    finished = {}
    for name in names:
        if name not in specs:
            continue
        spec = specs[name]
        node = position[spec.node]
        whole = math.prod(spec.sizes("o")) == drafts[spec.node].channels
        split = whole and spec.role in ("weight", "bias")
        finished[name] = dataclasses.replace(
            spec,
            node=node,
            # Rows that are looked up whatever the input is are those of positions.
            axes=spec.axes if node in reading else spec.axes.replace("v", "t"),
            stem=node in stems,
            head=node in heads,
            sections=max(spec.sections, sections.get(spec.node, 1) if split else 1),
        )
    return ParamGraph(
        nodes=nodes,
        edges=edges,
        specs=finished,
        untouched=[name for name in names if name not in finished],
        assumptions=tuple(assumptions),
    )


def _kept(drafts: Sequence[Draft]) -> list[int]:
    wanted = [bool(draft.parameters) for draft in drafts]
    wanted[-1] = True
    for index in range(len(drafts) - 1, -1, -1):
        if wanted[index]:
            for source in drafts[index].inputs:
                wanted[source] = True
    return [index for index, is_wanted in enumerate(wanted) if is_wanted]


def _ends(nodes: list[Node], edges: list[tuple[int, int]]) -> tuple[set[int], set[int]]:
    """Return the weight layers that read the model's input, and those that emit its output."""
    before: list[list[int]] = [[] for _ in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for u, v in edges:
        before[v].append(u)
        after[u].append(v)
    raw = [False] * len(nodes)
    for i, node in enumerate(nodes):
        passes = node.op in _RAW_OPS and not node.parameters and before[i]
        raw[i] = node.op == "input" or bool(passes and all(raw[u] for u in before[i]))
    sink = [False] * len(nodes)
    for i in range(len(nodes) - 1, -1, -1):
        node = nodes[i]
        sums = node.op == "add" and all(nodes[u].op in ("linear", "conv") for u in before[i])
        passes = (node.op in _SINK_OPS or sums) and not node.parameters and after[i]
        sink[i] = node.op == "output" or bool(passes and all(sink[v] for v in after[i]))
    layers = [i for i, n in enumerate(nodes) if n.op in ("linear", "conv", "embedding")]
    stems = {i for i in layers if any(raw[u] for u in before[i])}
    heads = {
        i
        for i in layers
        if nodes[i].op != "embedding" and after[i] and all(sink[v] for v in after[i])
    }
    return stems, heads
