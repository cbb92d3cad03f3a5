"""What decoders read: one vector for each block of rows that has its own weights.

A fused projection (query, key and value in one matrix) or a stack of experts is several parameters
in one tensor; each such section gets its own vector, and the sections share their channel codes.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. P: sections of all parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.graphs import ROLES, ParamSpec

__all__ = ["SectionInput", "sections_of"]

SECTION_FREQUENCIES = 4


def sections_of(spec: ParamSpec) -> int:
    """Number of equal blocks of rows with weights of their own: stacked copies times sections."""
    copies = spec.sizes("e")
    stacked = copies[0] if copies and spec.axes.lstrip("1").startswith("e") else 1
    rows = 1
    for size in spec.sizes("eo"):
        rows *= size
    count = stacked * spec.sections
    return count if count and rows % count == 0 else 1


class SectionInput(nn.Module):
    """Node embedding + role + which section, through an MLP.

    Args:
        dim: Node embedding size d.
        hidden: Size h of the result.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.roles = {name: index for index, name in enumerate(ROLES)}
        self.role = nn.Embedding(len(ROLES), dim)
        self.section = nn.Linear(2 * SECTION_FREQUENCIES, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
        )

    def forward(
        self, embeddings: Float[Tensor, "B N d"], specs: Mapping[Any, ParamSpec]
    ) -> Float[Tensor, "B P h"]:
        """Return one vector for each section, in the order of the specs."""
        counts = [sections_of(s) for s in specs.values()]
        device = embeddings.device
        repeat = torch.tensor(counts, device=device)
        node = torch.tensor([s.node for s in specs.values()], device=device)
        role = torch.tensor([self.roles[s.role] for s in specs.values()], device=device)
        index = torch.cat([torch.arange(c, device=device) for c in counts])
        angles = index[:, None] * 2.0 ** -torch.arange(SECTION_FREQUENCIES, device=device)
        waves = torch.cat([angles.sin(), angles.cos()], 1).to(embeddings.dtype)
        nodes = embeddings.index_select(-2, node.repeat_interleave(repeat))
        return self.mlp(nodes + self.role(role.repeat_interleave(repeat)) + self.section(waves))
