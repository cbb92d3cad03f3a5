"""The node input that all encoders share: what an operator is, before its neighbours are asked.

Sources: operator embedding from Knyazev et al. 2021 (arXiv 2110.13100); degree and depth
embeddings from Knyazev et al. 2023 (arXiv 2303.04143). The continuous shape features, in place of
one table row for each width, are ours.

Shape letters used in this file:
    N: nodes of all graphs of the batch.
    d: embedding size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.graphs.batch import FEATURES, GraphBatch
from ghn.graphs.ops import OPERATORS

__all__ = ["NodeInput", "sinusoids"]

MAX_DEGREE = 32
MAX_DEPTH = 256
INITIAL_SCALE = 0.5


def sinusoids(rows: int, dim: int) -> Float[Tensor, "rows dim"]:
    """Return sine and cosine waves of the row number, with wavelengths from 2 pi to 20,000 pi.

    Args:
        rows: Number of positions, counted from 0.
        dim: Number of columns, even: the first half sines, the second cosines.

    Source:
        Vaswani et al. 2017 (arXiv 1706.03762, section 3.5).
    """
    position = torch.arange(rows, dtype=torch.float32).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angle = position * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class NodeInput(nn.Module):
    """Sum of the embeddings of operator, shapes, degrees and depth.

    The operator table may be loaded from a checkpoint with an older, shorter vocabulary: its rows
    come first, and each operator appended since then starts as a copy of `other`, which is how the
    older checkpoint would have read it.

    Args:
        dim: Embedding size `d`, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.operator = nn.Embedding(len(OPERATORS), dim)
        self.features = nn.Sequential(nn.Linear(len(FEATURES), dim), nn.GELU(), nn.Linear(dim, dim))
        self.in_degree = nn.Embedding(MAX_DEGREE + 1, dim)
        self.out_degree = nn.Embedding(MAX_DEGREE + 1, dim)
        self.depth = nn.Embedding(MAX_DEPTH + 1, dim)
        nn.init.normal_(self.operator.weight, std=INITIAL_SCALE)
        # Rows that training never reaches must do no harm: degrees start at zero, depths smooth.
        nn.init.zeros_(self.in_degree.weight)
        nn.init.zeros_(self.out_degree.weight)
        with torch.no_grad():
            self.depth.weight.copy_(INITIAL_SCALE * sinusoids(MAX_DEPTH + 1, dim))
        self.register_load_state_dict_pre_hook(_append_operators)

    def forward(self, batch: GraphBatch) -> Float[Tensor, "N d"]:
        """Return the input of every node; degrees above 32 and depths above 256 count as these."""
        return (
            self.operator(batch.op)
            + self.features(batch.features.to(self.depth.weight.dtype))
            + self.in_degree(batch.in_degree.clamp(max=MAX_DEGREE))
            + self.out_degree(batch.out_degree.clamp(max=MAX_DEGREE))
            + self.depth(batch.depth.clamp(max=MAX_DEPTH))
        )


def _append_operators(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lengthen an older operator table in a state dict that is about to be loaded."""
    table = state.get(key := f"{prefix}operator.weight")
    missing = len(OPERATORS) - len(table) if table is not None else 0
    if table is not None and missing > 0:
        state[key] = torch.cat([table, table[:1].expand(missing, -1)])
