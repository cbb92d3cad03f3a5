"""Reshaped head: LoGAH's published way to factors, kept to be compared with the factor head.

An MLP's output is reshaped to [2 r, r], widened to [2 r, K] and read as two factors [K, r] for a
maximal width K, which are cropped. The reshape mixes rank and width: each r neighbouring numbers
of a widened row become one row of a factor.

Source: Zhou et al. 2024 (LoGAH, arXiv 2405.16287), low-rank decoder. Ours: widths beyond K follow
the width rule of `ghn.decoders.codes` instead of being refused, and sections of fused projections
are emitted one by one.

Shape letters used in this file:
    B: conditions. P: sections of all parameters. n: parameters of a stack. q: sections of each.
    K: maximal width. r: rank. h: hidden size. n: width asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.decoders.codes import lookup
from ghn.decoders.nodes import Stack, gather, scatter, stacks_of
from ghn.graphs import ParamSpec
from ghn.kernels import LowRank, Recipe

__all__ = ["ReshapedHead"]


class ReshapedHead(nn.Module):
    """Emits the factors of every parameter. The order of channels has no meaning here.

    Args:
        dim: Node embedding size d, which sets the MLP's widths 4 d and 8 d.
        hidden: Size h of a section's vector.
        rank: Rank r.
        rows: Maximal width K.
    """

    def __init__(self, dim: int, hidden: int, rank: int, rows: int) -> None:
        super().__init__()
        self.rank, self.rows = rank, rows
        self.core = nn.Sequential(
            nn.Linear(hidden, 4 * dim),
            nn.ReLU(),
            nn.Linear(4 * dim, 8 * dim),
            nn.ReLU(),
            nn.Linear(8 * dim, 2 * rank**2),
            nn.ReLU(),
        )
        self.widen = nn.Linear(rank, rows)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=math.sqrt(2.0 / layer.in_features))
                nn.init.zeros_(layer.bias)
        # A sum of r products of two factors' elements: of size 1 if the elements are r ** -0.25.
        with torch.no_grad():
            self.widen.weight.mul_(rank**-0.25)

    def forward(
        self, sections: Float[Tensor, "B P h"], specs: Mapping[Any, ParamSpec]
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return one recipe for each stack of parameters."""
        cores = self.core(sections).unflatten(-1, (2 * self.rank, self.rank))
        widened = self.widen(cores)
        stacks = stacks_of(specs)
        split = scatter(gather(widened.flatten(2), stacks), stacks)
        shape = (2, self.rows, self.rank)
        return {
            s.keys: self._crop(own.unflatten(3, shape), s)
            for s, own in zip(stacks, split, strict=True)
        }

    def _crop(self, factors: Float[Tensor, "B n q 2 K r"], stack: Stack) -> Recipe:
        """Crop to rows times the kernel's first axis, and columns times its other axes."""
        layout = stack.layout
        batch, count, sections = factors.shape[:3]
        fold = layout.kernel_shape[0] if layout.kernel_shape else 1
        rest = layout.kernel // max(fold, 1)
        left = lookup(factors[:, :, :, 0], layout.rows // sections * fold)
        # All sections read the first one's columns.
        right = lookup(factors[:, :, 0, 1], layout.cols * rest)
        left = left.reshape(batch, count, layout.rows * fold, self.rank)
        return LowRank(left, right.transpose(2, 3), layout)
