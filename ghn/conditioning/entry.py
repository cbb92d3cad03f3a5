"""How a condition enters node embeddings.

Shape letters used in this file:
    B: conditions. N: nodes. T: tokens. d: size of an embedding. c: size of a condition.
    e: size of a conditioned embedding.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.conditioning.registry import ENTRIES

__all__ = ["Addition", "Concatenation", "CrossAttention", "FiLM"]


@ENTRIES.register("concatenation")
class Concatenation(nn.Module):
    """Writes the condition behind each node's embedding; the only entry without weights.

    Without an encoder (d = 0) what comes out is the condition alone.

    Args:
        nodes: Size d.
        condition: Size c.
    """

    takes_tokens: ClassVar[bool] = False

    def __init__(self, nodes: int, condition: int) -> None:
        super().__init__()

    @staticmethod
    def width(nodes: int, condition: int) -> int:
        """Return the size of what comes out: d + c."""
        return nodes + condition

    def forward(
        self, nodes: Float[Tensor, "N d"], condition: Float[Tensor, "B c"]
    ) -> Float[Tensor, "B N e"]:
        """Return the embeddings of all nodes under each condition."""
        batch, count = len(condition), len(nodes)
        return torch.cat(
            [nodes.expand(batch, -1, -1), condition[:, None].expand(-1, count, -1)], dim=-1
        )


class _SameWidth(nn.Module):
    """What entries that keep the embeddings' size have in common."""

    takes_tokens: ClassVar[bool] = False

    @staticmethod
    def width(nodes: int, condition: int) -> int:
        """Return the size of what comes out: d."""
        return nodes


@ENTRIES.register("addition")
class Addition(_SameWidth):
    """Adds a linear function of the condition to each node's embedding.

    Args:
        nodes: Size d.
        condition: Size c.
    """

    def __init__(self, nodes: int, condition: int) -> None:
        super().__init__()
        self.shift = nn.Linear(condition, nodes)

    def forward(
        self, nodes: Float[Tensor, "N d"], condition: Float[Tensor, "B c"]
    ) -> Float[Tensor, "B N e"]:
        """Return the embeddings of all nodes under each condition."""
        return nodes + self.shift(condition)[:, None]


@ENTRIES.register("film")
class FiLM(_SameWidth):
    """Scales and shifts each component of the embeddings by linear functions of the condition.

    Args:
        nodes: Size d.
        condition: Size c.

    Source:
        Perez et al. 2018 (FiLM, arXiv 1709.07871).
    """

    def __init__(self, nodes: int, condition: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(condition, 2 * nodes)

    def forward(
        self, nodes: Float[Tensor, "N d"], condition: Float[Tensor, "B c"]
    ) -> Float[Tensor, "B N e"]:
        """Return the embeddings of all nodes under each condition."""
        scale, shift = self.modulation(condition)[:, None].chunk(2, -1)
        return nodes * (1.0 + scale) + shift


@ENTRIES.register("cross_attention")
class CrossAttention(_SameWidth):
    """Lets each node attend to the tokens of the condition; a vector counts as one token.

    Args:
        nodes: Size d.
        condition: Size c.
    """

    takes_tokens: ClassVar[bool] = True
    architecture: ClassVar[tuple[str, ...]] = ("attention",)

    def __init__(self, nodes: int, condition: int) -> None:
        super().__init__()
        self.query = nn.Linear(nodes, nodes, bias=False)
        self.key_value = nn.Linear(condition, 2 * nodes, bias=False)
        self.out = nn.Linear(nodes, nodes)

    def forward(
        self, nodes: Float[Tensor, "N d"], condition: Float[Tensor, "B *T c"]
    ) -> Float[Tensor, "B N e"]:
        """Return the embeddings of all nodes under each condition."""
        tokens = condition.reshape(len(condition), -1, condition.shape[-1])
        key, value = self.key_value(tokens).chunk(2, -1)
        query = self.query(nodes).expand(len(condition), -1, -1)
        return nodes + self.out(F.scaled_dot_product_attention(query, key, value))
