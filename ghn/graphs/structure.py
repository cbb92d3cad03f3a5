"""Facts about a graph that decide how large weights may be: its signals and its shortcuts.

All of it is answered from operators and edges alone, in one pass over the graph.
"""

from __future__ import annotations

import dataclasses
import math

from ghn.graphs.graph import Node, ParamGraph

__all__ = [
    "NORMS",
    "SignalFacts",
    "predecessors",
    "residual_branch_ends",
    "signal_facts",
    "trunk",
]

_RELU_LIKE = frozenset(
    {"relu", "relu6", "leaky_relu", "prelu", "elu", "gelu", "silu", "mish", "hard_swish"}
)
NORMS = frozenset(
    {"batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm", "l2_norm"}
)
# These keep what channels have in common: sums and averages of channels with themselves.
_PASSES = NORMS | {
    *("add", "concat", "pad", "avg_pool", "mean", "roll", "matmul", "attention", "interpolate"),
}
# These hand channels on one by one: a norm behind them is a norm of what they read.
_HANDS_ON = frozenset({"concat", "pad", "roll"})
_MIXERS = frozenset({"conv", "conv_transpose", "linear", "embedding"})
_KEEPS_WIDTH = NORMS | _RELU_LIKE | {"add", "pad", "avg_pool", "max_pool", "mean", "roll"}
_LAYERS = frozenset({"conv", "depthwise_conv", "conv_transpose", "linear"})
# A product scales with its data input; what these emit is bounded whatever they read.
_GATES = frozenset({"sigmoid", "hard_sigmoid", "softmax", "tanh"})
_SCALING_ROLES = frozenset({"weight", "gain", "scale", "magnitude", "direction", "lora_b"})
# Where a shortcut has a layer of its own, the fork lies a few operators back, not a stage.
_LONGEST_SHORTCUT_BLOCK = 64


def predecessors(graph: ParamGraph) -> list[list[int]]:
    """Return, for each node, the nodes that it reads, in ascending order."""
    before: list[list[int]] = [[] for _ in graph.nodes]
    for start, end in graph.edges:
        before[end].append(start)
    return before


@dataclasses.dataclass(frozen=True)
class SignalFacts:
    """What is known of the signals that operators read and emit; node indices.

    Attributes:
        aligned: Read channels straight from a layer: normalisations, sums and averages at most
            between.
        attended: Read averages by attention.
        crossed: Read something else than the channels of the layer before, such as positions.
        pooled: Layers that read averages over all positions, or what became of them:
            `"rectified"` if the averages are of a rectified signal, else `"plain"`.
        renormed: Their output goes into a batch or group norm, which undoes its size.
        layer_norms: Number of layer and RMS norms, and of group norms with one group.
        batch_norms: Number of batch norms.
    """

    aligned: frozenset[int]
    attended: frozenset[int]
    crossed: frozenset[int]
    pooled: dict[int, str]
    renormed: frozenset[int]
    layer_norms: int
    batch_norms: int


def signal_facts(graph: ParamGraph) -> SignalFacts:
    """Follow signals through a graph, in one pass; done once for each graph."""
    if "signals" not in graph.memo:
        graph.memo["signals"] = _follow_signals(graph)
    return graph.memo["signals"]


def _follow_signals(graph: ParamGraph) -> SignalFacts:
    before = predecessors(graph)
    count = len(graph.nodes)
    linear, rectified, pooled = [False] * count, [False] * count, [""] * count
    readers: dict[int, str] = {}
    made = _channels_made(graph)
    for index, node in enumerate(graph.nodes):
        sources = before[index]
        inputs = {pooled[u] for u in sources}
        layer = node.op in _MIXERS
        mixed = [u for u in sources if graph.nodes[u].op not in _GATES] or sources
        passes = node.op in _PASSES or (len(sources) == 1 and _scales_channels(node))
        linear[index] = layer or (passes and bool(sources) and all(linear[u] for u in mixed))
        keeps_sign = not layer and node.op not in NORMS and any(rectified[u] for u in sources)
        rectifies = node.op in _RELU_LIKE or _gates_itself(graph, before, index)
        rectified[index] = keeps_sign or rectifies
        if node.op == "mean" or _has_one_query(graph, before, made, index):
            pooled[index] = "rectified" if any(rectified[u] for u in sources) else "plain"
        elif sources and "" not in inputs:
            if layer:
                readers[index] = max(inputs)
            pooled[index] = "plain" if layer else max(inputs)
    crossed = _crossed(graph, before, made)
    return SignalFacts(
        aligned=frozenset(
            v for v in range(count) if v not in crossed and any(linear[u] for u in before[v])
        ),
        attended=frozenset(v for u, v in graph.edges if _averages(graph, before, u)),
        crossed=crossed,
        pooled=readers,
        renormed=_renormed(graph, before),
        layer_norms=sum(_normalises_positions(node) for node in graph.nodes),
        batch_norms=sum(node.op == "batch_norm" for node in graph.nodes),
    )


def _normalises_positions(node: Node) -> bool:
    """Whether an operator is a layer or RMS norm, or a group norm with one group."""
    one_group = node.op == "group_norm" and node.attributes.get("groups") == 1
    return one_group or node.op in ("layer_norm", "rms_norm")


def _scales_channels(node: Node) -> bool:
    return node.op == "mul" and any(role == "scale" for _, role in node.parameters)


def _gates_itself(graph: ParamGraph, before: list[list[int]], index: int) -> bool:
    """Whether an operator is a signal times a gate of itself, as in SiLU, perhaps scaled before."""
    if graph.nodes[index].op != "mul":
        return False
    sources = set(before[index])
    for gate in sources:
        read = set(before[gate]) if graph.nodes[gate].op in _GATES else set()
        read |= {v for u in read if _scales_channels(graph.nodes[u]) for v in before[u]}
        if read & (sources - {gate}):
            return True
    return False


def _averages(graph: ParamGraph, before: list[list[int]], index: int) -> bool:
    """Whether an operator averages values by attention, in one call or as a product."""
    op = graph.nodes[index].op
    weighted = any(graph.nodes[u].op == "softmax" for u in before[index])
    return op == "attention" or (op == "matmul" and weighted)


def _has_one_query(
    graph: ParamGraph, before: list[list[int]], made: dict[int, int], index: int
) -> bool:
    """Whether an operator averages by one set of weights, which a layer of one channel makes."""
    weights = [u for u in before[index] if graph.nodes[u].op == "softmax"]
    alone = any(made.get(w) == 1 for u in weights for w in before[u])
    return graph.nodes[index].op == "matmul" and alone


def _channels_made(graph: ParamGraph) -> dict[int, int]:
    """Return the number of channels that operators with weights emit."""
    made: dict[int, int] = {}
    for spec in graph.specs.values():
        channels = spec.sizes("o")
        if channels and spec.role in ("weight", "gain", "direction"):
            made[spec.node] = math.prod(channels)
    return made


def _crossed(graph: ParamGraph, before: list[list[int]], made: dict[int, int]) -> frozenset[int]:
    """Find linear layers whose inputs are not as many as the channels that reach them."""
    wanted: dict[int, set[int]] = {}
    for spec in graph.specs.values():
        if spec.fan_in:
            wanted.setdefault(spec.node, set()).add(spec.fan_in)
    channels_of, found = [0] * len(graph.nodes), set()
    for index, node in enumerate(graph.nodes):
        reaching = {channels_of[u] for u in before[index]}
        channels_of[index] = made.get(index, max(reaching, default=0) * (node.op in _KEEPS_WIDTH))
        known = len(reaching) == 1 and 0 not in reaching
        if node.op == "linear" and known and wanted.get(index, reaching) != reaching:
            found.add(index)
    return frozenset(found)


def _renormed(graph: ParamGraph, before: list[list[int]]) -> frozenset[int]:
    """Find operators whose output such a norm reads, straight or behind a concatenation."""
    found: set[int] = set()
    for index in reversed(range(len(graph.nodes))):
        node = graph.nodes[index]
        if node.op in ("batch_norm", "group_norm") or (node.op in _HANDS_ON and index in found):
            found |= set(before[index])
    return frozenset(found)


def trunk(graph: ParamGraph) -> frozenset[int]:
    """Return the nodes that all signals pass, from whatever input to whatever output.

    What is in no residual branch, no parallel path and no gate: nothing carries the signal past
    these nodes. Found once for each graph.
    """
    if "trunk" not in graph.memo:
        graph.memo["trunk"] = _find_trunk(graph)
    return graph.memo["trunk"]


def _find_trunk(graph: ParamGraph) -> frozenset[int]:
    count = len(graph.nodes)
    inputs = {i for i, node in enumerate(graph.nodes) if node.op == "input"}
    outputs = {i for i, node in enumerate(graph.nodes) if node.op == "output"}
    fed, heard = set(inputs), set(outputs)
    for start, end in graph.edges:
        if start in fed:
            fed.add(end)
    for start, end in reversed(graph.edges):
        if end in heard:
            heard.add(start)
    # How far each node hands the signal on; several inputs count as one before them all.
    carried = dict.fromkeys(outputs, count)
    for start, end in graph.edges:
        if start in fed and end in heard:
            carried[start] = max(carried.get(start, 0), end)
    found, farthest = set(), max(inputs & heard, default=0)
    for index in sorted(fed & heard):
        if farthest <= index:
            found.add(index)
        farthest = max(farthest, carried[index])
    return frozenset(found)


def residual_branch_ends(graph: ParamGraph) -> dict[int, int]:
    """Find the last scaling operator of every residual branch.

    A sum closes a residual branch if one of its inputs leads to another one (an identity
    shortcut), or if both come from one operator nearby and one of them passed at most one
    convolution or linear layer and the other more (a projection shortcut). The branch ends in the
    last operator before the sum that has a weight, a gain or a scale. Branches without such an
    operator, or whose last one is undone by a normalisation without a gain, do not count; of sums
    that nothing but a batch norm reads only layer scales do.

    Returns:
        Node index of each branch end, with the number of residual branches in the whole network;
        found once for each graph.
    """
    if "branch ends" not in graph.memo:
        graph.memo["branch ends"] = _find_branch_ends(graph)
    return graph.memo["branch ends"]


def _find_branch_ends(graph: ParamGraph) -> dict[int, int]:
    before = predecessors(graph)
    above = _ancestors(before)
    ends: set[int] = set()
    count = 0
    undone = _read_by_batch_norm_alone(graph)
    for index, node in enumerate(graph.nodes):
        if node.op != "add" or len(before[index]) < 2:
            continue
        for tip, start in _branches(graph.nodes, before, index, above):
            found = _last_scaling(graph.nodes, before, above, tip, start)
            if index in undone:
                found = {end for end in found if graph.nodes[end].op == "mul"}
            count += bool(found)
            ends |= found
    return dict.fromkeys(sorted(ends), count)


def _read_by_batch_norm_alone(graph: ParamGraph) -> set[int]:
    readers: dict[int, list[str]] = {}
    for start, end in graph.edges:
        readers.setdefault(start, []).append(graph.nodes[end].op)
    return {index for index, ops in readers.items() if ops == ["batch_norm"]}


def _ancestors(before: list[list[int]]) -> list[int]:
    """Return, for each node, the set of nodes that lead to it, as the bits of an integer."""
    above: list[int] = []
    for sources in before:
        bits = 0
        for source in sources:
            bits |= above[source] | (1 << source)
        above.append(bits)
    return above


def _branches(
    nodes: list[Node], before: list[list[int]], index: int, above: list[int]
) -> list[tuple[int, int]]:
    """Return (tip, start) of the residual branches that the sum at `index` closes."""
    inputs = before[index]
    skips = {b: [a for a in inputs if above[b] >> a & 1] for b in inputs}
    branches = [(b, max(a)) for b, a in skips.items() if a]
    if branches or len(inputs) != 2:
        return branches
    first, second = inputs
    common = above[first] & above[second]
    fork = common.bit_length() - 1
    if fork < 0 or second - fork > _LONGEST_SHORTCUT_BLOCK:
        return []
    layers = {tip: _count_layers(nodes, before, fork, tip) for tip in inputs}
    short, long = sorted(inputs, key=lambda tip: layers[tip])
    return [(long, fork)] if layers[short] <= 1 < layers[long] else []


def _count_layers(nodes: list[Node], before: list[list[int]], fork: int, tip: int) -> int:
    """Count convolutions and linear layers on the way from a fork to a tip that has most."""
    layers = {fork: 0}
    for index in range(fork + 1, tip + 1):
        sources = [layers[u] for u in before[index] if u in layers]
        if sources:
            layers[index] = max(sources) + (nodes[index].op in _LAYERS)
    return layers[tip]


def _last_scaling(
    nodes: list[Node], before: list[list[int]], above: list[int], tip: int, start: int
) -> set[int]:
    """Walk back from a branch's tip to the operators that set its size."""
    found: set[int] = set()
    seen: set[int] = set()
    stack = [tip]
    while stack:
        index = stack.pop()
        if index in seen or not above[index] >> start & 1:
            continue
        seen.add(index)
        node = nodes[index]
        if node.op != "recurrent" and any(r in _SCALING_ROLES for _, r in node.parameters):
            found.add(index)
        elif node.op not in NORMS and node.op != "recurrent":
            stack.extend(_scaling_inputs(nodes, node, before[index]))
    return found


def _scaling_inputs(nodes: list[Node], node: Node, inputs: list[int]) -> list[int]:
    """Return the inputs that a node's output is proportional to; of a product's, one is enough."""
    if node.op not in ("mul", "div", "matmul") or len(inputs) < 2:
        return inputs
    data = [i for i in inputs if nodes[i].op not in _GATES]
    return data[:1] or inputs[:1]
