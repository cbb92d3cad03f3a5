"""Graphormer: a transformer over the nodes of a graph, biased by how far apart they are.

Source: Knyazev et al. 2023 (GHN-3, arXiv 2303.04143, section 3), after Ying et al. 2021
(arXiv 2106.05234).

Shape letters used in this file:
    N: nodes of all graphs of the batch.
    n: nodes of one graph.
    d: embedding size.
    H: attention heads.
    P: pairs of distances, `2 * max_distance + 1`.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.config import Config
from ghn.encoders.features import NodeInput, sinusoids
from ghn.encoders.registry import ENCODERS
from ghn.errors import ConfigError
from ghn.graphs.batch import GraphBatch

__all__ = ["DistanceBias", "Graphormer", "GraphormerConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphormerConfig(Config):
    """Settings of `Graphormer`; the defaults are GHN-3's smallest.

    Attributes:
        dim: Node embedding size `d`, even and a multiple of `heads`.
        layers: Number of transformer layers.
        heads: Attention heads `H`.
        hidden: Width of the layers' MLPs, in units of `dim`.
        max_distance: Longest distance told apart, in edges; longer ones count as this long.
    """

    dim: int = 64
    layers: int = 3
    heads: int = 8
    hidden: int = 4
    max_distance: int = 256

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.heads, self.hidden, self.max_distance) < 1:
            raise ConfigError(f"all settings of an encoder must be at least 1, got {self}")
        if self.dim % 2 or self.dim % self.heads:
            raise ConfigError(
                f"dim must be even and a multiple of heads={self.heads}, got dim={self.dim}"
            )


@ENCODERS.register("graphormer")
class Graphormer(nn.Module):
    """Pre-norm transformer whose attention is biased by directed shortest-path distances.

    Every node attends to all nodes of its own graph. One bias, made from the distances, is added
    to the attention logits of every layer.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = GraphormerConfig
    architecture: ClassVar[tuple[str, ...]] = ("attention",)

    def __init__(self, config: GraphormerConfig) -> None:
        super().__init__()
        self.config = config
        self.input = NodeInput(config.dim)
        self.bias = DistanceBias(config.dim, config.heads, config.max_distance)
        self.layers = nn.ModuleList(
            _Layer(config.dim, config.heads, config.hidden) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, batch: GraphBatch) -> Float[Tensor, "N d"]:
        """Return the embedding of every node of the batch."""
        x = self.input(batch)
        biases = self.bias(batch.distances)
        for layer in self.layers:
            x = layer(x, biases)
        return self.norm(x)


class DistanceBias(nn.Module):
    """Attention bias from forward and backward distance, one number for each head.

    In a graph without cycles at most one of the two distances of a pair of nodes is not zero, so
    there are only `P = 2 * max_distance + 1` different pairs. The network runs once for each of
    them, not for each pair of nodes.

    Args:
        dim: Embedding size `d`, even.
        heads: Attention heads.
        max_distance: Longest distance told apart; longer ones count as this long.
    """

    def __init__(self, dim: int, heads: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.forward_table = nn.Parameter(_distance_table(max_distance, dim))
        self.backward_table = nn.Parameter(_distance_table(max_distance, dim))
        # No bias at the end: softmax ignores what is added to all logits.
        self.to_heads = nn.Sequential(
            nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, heads, bias=False)
        )

    def forward(self, distances: tuple[Int16[Tensor, "_ _"], ...]) -> list[Float[Tensor, "H _ _"]]:
        """Return the bias of each graph, for a node in the row that attends to one in the column.

        Args:
            distances: Of each graph, as `shortest_distances` returns them.
        """
        by_pair = self._by_pair()
        return [self._gather(by_pair, distance) for distance in distances]

    def _by_pair(self) -> Float[Tensor, "P H"]:
        """Compute the bias at signed distances -max_distance .. max_distance, backward first."""
        ahead, behind = self.forward_table, self.backward_table
        none_ahead = ahead[:1].expand(self.max_distance, -1)
        none_behind = behind[:1].expand(self.max_distance + 1, -1)
        forward = torch.cat([none_ahead, ahead])
        backward = torch.cat([behind[1:].flip(0), none_behind])
        return self.to_heads(torch.cat([forward, backward], dim=1))

    def _gather(
        self, by_pair: Float[Tensor, "P H"], distance: Int16[Tensor, "n n"]
    ) -> Float[Tensor, "H n n"]:
        signed = (distance - distance.T).clamp(-self.max_distance, self.max_distance)
        pair = signed.to(torch.int32) + self.max_distance
        return F.embedding(pair, by_pair).permute(2, 0, 1).contiguous()


def _distance_table(max_distance: int, dim: int) -> Float[Tensor, "rows d"]:
    table = sinusoids(max_distance + 1, dim)
    table[0] = 0.0  # distance 0 says that there is no path
    return table


class _Layer(nn.Module):
    """One pre-norm transformer layer; attention stays within each graph."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden * dim), nn.GELU(), nn.Linear(hidden * dim, dim)
        )

    def forward(
        self, x: Float[Tensor, "N d"], biases: list[Float[Tensor, "H _ _"]]
    ) -> Float[Tensor, "N d"]:
        x = x + self.out(self._attend(self.attention_norm(x), biases))
        return x + self.mlp(x)

    def _attend(
        self, x: Float[Tensor, "N d"], biases: list[Float[Tensor, "H _ _"]]
    ) -> Float[Tensor, "N d"]:
        # Graph by graph instead of padded: exact, no masks, and memory grows with each graph only.
        qkv = self.qkv(x).unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        sizes = [bias.shape[-1] for bias in biases]
        mixed = [
            F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias[None])[0]
            for (q, k, v), bias in zip(qkv.split(sizes, dim=2), biases, strict=True)
        ]
        return torch.cat(mixed, dim=1).transpose(0, 1).flatten(1)
