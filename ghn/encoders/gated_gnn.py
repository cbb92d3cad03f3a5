"""Gated graph network: nodes pass messages in the order in which the network computes.

Source: Knyazev et al. 2021 (GHN-2, arXiv 2110.13100, equations 3 and 4), after Zhang et al. 2018
(arXiv 1810.05749).

Shape letters used in this file:
    N: nodes of all graphs of the batch.
    d: embedding size.
    L: links, the edges and virtual edges of all graphs of the batch.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ghn.config import Config
from ghn.encoders.features import NodeInput
from ghn.encoders.registry import ENCODERS
from ghn.errors import ConfigError
from ghn.graphs.batch import GraphBatch

__all__ = ["GatedGNN", "GatedGNNConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GatedGNNConfig(Config):
    """Settings of `GatedGNN`; the defaults are GHN-2's.

    Attributes:
        dim: Node embedding size `d`, even.
        rounds: Number of rounds, each a forward and a backward traversal.
        cutoff: Longest virtual edge, in edges of the graph; 1 leaves them out.
    """

    dim: int = 64
    rounds: int = 1
    cutoff: int = 50

    def __post_init__(self) -> None:
        if min(self.dim, self.rounds, self.cutoff) < 1 or self.dim % 2:
            raise ConfigError(f"dim must be even, and all settings at least 1, got {self}")


@ENCODERS.register("gated_gnn")
class GatedGNN(nn.Module):
    """Gated message passing along the graph and back, with virtual edges to farther nodes.

    A traversal visits each node once, after all nodes that it receives from:
    `m_v = sum_u MLP(h_u) + sum_u MLP_sp(h_u) / s_uv`, `h_v = GRU(h_v, m_v)`, where the first sum
    runs over neighbours and the second over nodes at a distance `1 < s_uv <= cutoff`. Nodes of one
    level, in all graphs of the batch, are visited at once.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = GatedGNNConfig
    architecture: ClassVar[tuple[str, ...]] = ("rnn", "gnn")

    def __init__(self, config: GatedGNNConfig) -> None:
        super().__init__()
        self.config = config
        self.input = NodeInput(config.dim)
        self.message = _mlp(config.dim)
        self.virtual_message = _mlp(config.dim)
        self.update = nn.GRUCell(config.dim, config.dim)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, batch: GraphBatch) -> Float[Tensor, "N d"]:
        """Return the embedding of every node of the batch."""
        x = self.input(batch)
        links = _links(batch, self.config.cutoff)
        ahead = _steps(batch.level, links)
        back = _steps(batch.level.max() - batch.level, links.reverse())
        for _ in range(self.config.rounds):
            x = self._traverse(x, ahead)
            x = self._traverse(x, back)
        return self.norm(x)

    def _traverse(self, x: Float[Tensor, "N d"], steps: list[_Step]) -> Float[Tensor, "N d"]:
        received = torch.zeros_like(x)
        visited = []
        for step in steps:
            h = self.update(received[step.nodes], x[step.nodes])
            visited.append(h)
            messages = torch.cat([self.message(h), self.virtual_message(h)])
            received.index_add_(0, step.target, messages[step.source] * step.weight.to(x.dtype))
        order = torch.cat([step.nodes for step in steps])
        return torch.cat(visited)[order.argsort()]


def _mlp(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))


class _Links(NamedTuple):
    """Everything that messages travel along: real and virtual edges."""

    source: Int64[Tensor, " L"]
    target: Int64[Tensor, " L"]
    distance: Int64[Tensor, " L"]

    def reverse(self) -> _Links:
        return _Links(self.target, self.source, self.distance)


class _Step(NamedTuple):
    """The `n` nodes of one level, and the `l` links that start at them.

    `source` is a row of the level's stacked messages: node for node the plain ones, then the
    virtual ones.
    """

    nodes: Int64[Tensor, " n"]
    source: Int64[Tensor, " l"]
    target: Int64[Tensor, " l"]
    weight: Float[Tensor, "l 1"]


def _links(batch: GraphBatch, cutoff: int) -> _Links:
    """List edges (distance 1) and virtual edges (distance 2 .. cutoff) of all graphs."""
    ends, lengths = [], []
    offset = 0
    for distance in batch.distances:
        pairs = ((distance > 0) & (distance <= cutoff)).nonzero(as_tuple=True)
        ends.append(torch.stack(pairs) + offset)
        lengths.append(distance[pairs])
        offset += len(distance)
    source, target = torch.cat(ends, dim=1)
    return _Links(source, target, torch.cat(lengths).long())


def _steps(level: Int64[Tensor, " N"], links: _Links) -> list[_Step]:
    """Group nodes by level, in ascending order, and links by the level of their source."""
    nodes = level.argsort(stable=True)
    counts = level.bincount()
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(nodes).scatter_(0, nodes, torch.arange(len(nodes), device=level.device))
    rank = rank - first[level]

    source_level = level[links.source]
    by_level = source_level.argsort(stable=True)
    link_counts = source_level.bincount(minlength=len(counts)).tolist()
    virtual = links.distance > 1
    source = rank[links.source] + virtual * counts[source_level]
    parts = zip(
        nodes.split(counts.tolist()),
        source[by_level].split(link_counts),
        links.target[by_level].split(link_counts),
        (1.0 / links.distance[by_level].unsqueeze(1)).split(link_counts),
        strict=True,
    )
    return [_Step(*part) for part in parts]
