"""What encoders read: the nodes of several graphs as one set of tensors.

Everything that depends on one graph only (features, degrees, distances) is computed once for each
`ParamGraph` object and kept as long as the object lives; batching then only concatenates. So a
graph must not be changed after it was batched.

Shape letters used in this file:
    N: nodes of all graphs.
    E: edges of all graphs.
    F: features, `len(FEATURES)`.
    n: nodes of one graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int16, Int64
from torch import Tensor

from ghn.errors import InputError
from ghn.graphs.distances import shortest_distances
from ghn.graphs.graph import Node, ParamGraph, ParamSpec
from ghn.graphs.ops import operator_index

__all__ = ["FEATURES", "GraphBatch", "batch_specs"]

B = TypeVar("B", bound="GraphBatch")

FEATURES: dict[str, tuple[float, str]] = {
    "out": (16, "output channels of the main parameter"),
    "in": (16, "input channels of the main parameter, those of one group"),
    "rows": (16, "vocabulary rows or positions of the main parameter"),
    "copies": (8, "stacked copies in the main parameter, such as experts"),
    "kernel_depth": (4, "kernel size, third axis from the right"),
    "kernel_height": (4, "kernel size, second axis from the right"),
    "kernel_width": (4, "kernel size, last axis; also of pools"),
    "stride": (4, "largest stride"),
    "groups": (16, "groups of a convolution or group norm"),
    "sections": (4, "blocks that the output channels are split into"),
    "fan_in": (16, "products summed into one output element"),
    "heads": (4, "attention heads"),
    "elements": (32, "elements of all the node's parameters"),
    "tensors": (4, "number of the node's parameters"),
    "stem": (1, "1 if the operator reads the model's input, else 0"),
    "head": (1, "1 if the operator emits the model's output, else 0"),
}
"""Continuous node features: name to (scale, meaning); the value is log2(1 + x) / scale.

A node's main parameter is its largest. What a node lacks counts as x = 0. Logarithms keep every
width within about [0, 1], so widths that were never seen are extrapolated, not looked up.
"""

_SCALES = np.array([scale for scale, _ in FEATURES.values()])


@dataclasses.dataclass(frozen=True)
class GraphBatch:
    """The nodes of one or more graphs, concatenated; edges never cross graphs.

    Attributes:
        op: Row of each node's operator in the vocabulary.
        features: Continuous features; see `FEATURES`.
        in_degree: Number of edges that end at a node.
        out_degree: Number of edges that start at a node.
        depth: Number of edges on the shortest path from a model input; 0 at inputs and where no
            input leads.
        level: Number of edges on the longest path from any source. Nodes of one level do not
            depend on each other, and every edge leads to a higher level.
        graph_index: Which graph a node belongs to.
        edge_index: Start and end of each edge, as rows of the batch.
        distances: For each graph, the directed shortest-path distances between its own nodes; see
            `shortest_distances`.
        sizes: Number of nodes of each graph.
    """

    op: Int64[Tensor, " N"]
    features: Float32[Tensor, "N F"]
    in_degree: Int64[Tensor, " N"]
    out_degree: Int64[Tensor, " N"]
    depth: Int64[Tensor, " N"]
    level: Int64[Tensor, " N"]
    graph_index: Int64[Tensor, " N"]
    edge_index: Int64[Tensor, "2 E"]
    distances: tuple[Int16[Tensor, "_ _"], ...]
    sizes: tuple[int, ...]

    @classmethod
    def from_graphs(
        cls: type[B], graphs: Sequence[ParamGraph], device: torch.device | str | None = None
    ) -> B:
        """Concatenate graphs.

        Args:
            graphs: At least one graph; the same object may occur several times.
            device: Where the tensors shall live; the CPU by default.

        Raises:
            InputError: If `graphs` is empty.
        """
        if not graphs:
            raise InputError("GraphBatch needs at least one graph, got none; pass a list of graphs")
        parts = [_graph_tensors(graph) for graph in graphs]
        sizes = [len(part.op) for part in parts]
        offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        batch = cls(
            op=torch.cat([p.op for p in parts]),
            features=torch.cat([p.features for p in parts]),
            in_degree=torch.cat([p.in_degree for p in parts]),
            out_degree=torch.cat([p.out_degree for p in parts]),
            depth=torch.cat([p.depth for p in parts]),
            level=torch.cat([p.level for p in parts]),
            graph_index=torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
            edge_index=torch.cat(
                [p.edge_index + o for p, o in zip(parts, offsets, strict=True)], dim=1
            ),
            distances=tuple(p.distances for p in parts),
            sizes=tuple(sizes),
        )
        return batch if device is None else batch.to(device)

    @property
    def num_nodes(self) -> int:
        """Number of nodes of all graphs."""
        return len(self.op)

    def to(self: B, device: torch.device | str) -> B:
        """Return the batch with all tensors on `device`."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        moved["distances"] = tuple(d.to(device) for d in self.distances)
        return dataclasses.replace(self, **moved)


def batch_specs(graphs: Sequence[ParamGraph]) -> dict[tuple[int, str], ParamSpec]:
    """Return the parameters of all graphs by (graph, name), with nodes as rows of their batch."""
    specs: dict[tuple[int, str], ParamSpec] = {}
    offset = 0
    for index, graph in enumerate(graphs):
        for name, spec in graph.specs.items():
            specs[index, name] = dataclasses.replace(spec, node=spec.node + offset)
        offset += len(graph.nodes)
    return specs


@dataclasses.dataclass(frozen=True)
class _GraphTensors:
    """What a batch needs of one graph; fields as in `GraphBatch`."""

    op: Int64[Tensor, " n"]
    features: Float32[Tensor, "n F"]
    in_degree: Int64[Tensor, " n"]
    out_degree: Int64[Tensor, " n"]
    depth: Int64[Tensor, " n"]
    level: Int64[Tensor, " n"]
    edge_index: Int64[Tensor, "2 e"]
    distances: Int16[Tensor, "n n"]


def _graph_tensors(graph: ParamGraph) -> _GraphTensors:
    if "tensors" not in graph.memo:
        graph.memo["tensors"] = _compute_tensors(graph)
    return graph.memo["tensors"]


def _compute_tensors(graph: ParamGraph) -> _GraphTensors:
    size = len(graph.nodes)
    edges = np.array(graph.edges, dtype=np.int64).reshape(-1, 2)
    distances = shortest_distances(graph)
    raw = np.array([_raw_features(node, graph.specs) for node in graph.nodes])
    features = np.log2(1 + raw.reshape(size, len(FEATURES))) / _SCALES
    return _GraphTensors(
        op=torch.tensor([operator_index(node.op) for node in graph.nodes], dtype=torch.int64),
        features=torch.from_numpy(features.astype(np.float32)),
        in_degree=torch.from_numpy(np.bincount(edges[:, 1], minlength=size)),
        out_degree=torch.from_numpy(np.bincount(edges[:, 0], minlength=size)),
        depth=torch.from_numpy(_depths(graph, distances)),
        level=torch.tensor(_levels(graph), dtype=torch.int64),
        edge_index=torch.from_numpy(np.ascontiguousarray(edges.T)),
        distances=torch.from_numpy(distances),
    )


def _depths(graph: ParamGraph, distances: Int16[np.ndarray, "n n"]) -> Int64[np.ndarray, " n"]:
    inputs = [i for i, node in enumerate(graph.nodes) if node.op == "input"]
    if not inputs:
        return np.zeros(len(graph.nodes), dtype=np.int64)
    rows = distances[inputs].astype(np.int64)
    unreachable = len(graph.nodes)
    nearest = np.where(rows == 0, unreachable, rows).min(axis=0)
    nearest[nearest == unreachable] = 0
    return nearest


def _levels(graph: ParamGraph) -> list[int]:
    levels = [0] * len(graph.nodes)
    # Edges are sorted and lead upwards, so a node's level is final when its first edge starts.
    for start, end in graph.edges:
        levels[end] = max(levels[end], levels[start] + 1)
    return levels


def _raw_features(node: Node, specs: dict[str, ParamSpec]) -> list[int]:
    """Return x of every feature, in the order of `FEATURES`."""
    used = [specs[name] for name, _ in node.parameters]
    main = max(used, key=lambda spec: spec.numel, default=None)
    kernel = _numbers(node.attributes.get("kernel")) or (main.sizes("k") if main else ())
    depth, height, width = (0, 0, 0, *kernel)[-3:]
    sizes = [_size(main, letters) if main else 0 for letters in ("o", "i", "vt", "e")]
    groups = _numbers(node.attributes.get("groups")) or ((main.groups,) if main else ())
    return [
        *sizes,
        depth,
        height,
        width,
        max(_numbers(node.attributes.get("stride")), default=0),
        max(groups, default=0),
        main.sections if main else 0,
        main.fan_in if main else 0,
        max(_numbers(node.attributes.get("heads")), default=0),
        sum(spec.numel for spec in used),
        len(used),
        any(spec.stem for spec in used),
        any(spec.head for spec in used),
    ]


def _size(spec: ParamSpec, letters: str) -> int:
    """Return the product of the axes that carry one of `letters`; 0 if there is none."""
    sizes = spec.sizes(letters)
    return int(np.prod(sizes)) if sizes else 0


def _numbers(value: Any) -> tuple[int, ...]:
    """Return the non-negative integers in an operator's attribute."""
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(v for v in values if isinstance(v, int) and v >= 0)
