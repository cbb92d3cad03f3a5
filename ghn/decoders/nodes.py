"""What decoders read: one vector for each block of rows that has its own weights.

A fused projection (query, key and value in one matrix) or a stack of experts is several parameters
in one tensor; each such section gets its own vector, and the sections share their channel codes.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. h: hidden size. P: sections of all parameters.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.graphs import ROLES, ParamSpec
from ghn.kernels import Layout

__all__ = ["Member", "SectionInput", "gather", "groups_of", "sections_of"]

FREQUENCIES = 5
# Of the sine units: the scale of the first layer's weights, whose inputs have unit variance.
BANDWIDTH = 0.35
_ROLE_ROWS = {name: row for row, name in enumerate(ROLES)}


def sections_of(spec: ParamSpec) -> int:
    """Number of equal blocks of rows with weights of their own: stacked copies times sections.

    Copies count if they are the outermost axis. Rows that do not divide evenly are one section.
    """
    rows = math.prod(spec.sizes("eo"))
    copies = spec.sizes("e")[:1] if spec.axes.lstrip("1").startswith("e") else ()
    count = math.prod(copies) * spec.sections
    return count if count and rows % count == 0 else 1


class Member(NamedTuple):
    """A parameter and the place of its sections among those of all parameters.

    Attributes:
        key: The caller's name for it.
        spec: The parameter.
        layout: Its matrix form.
        start: Its first section.
        sections: Number of sections.
    """

    key: Any
    spec: ParamSpec
    layout: Layout
    start: int
    sections: int


def groups_of(
    specs: Mapping[Any, ParamSpec],
) -> Iterator[tuple[tuple[int, ...], bool, list[Member]]]:
    """Group parameters that can be emitted together.

    Returns:
        For each group: the kernel's sizes, whether the members have a single column (as vectors
        and depthwise kernels have), and the members.
    """
    groups: dict[Hashable, list[Member]] = {}
    start = 0
    for key, spec in specs.items():
        layout, sections = Layout(spec.shape, spec.axes), sections_of(spec)
        kind = (layout.kernel_shape, layout.cols == 1)
        groups.setdefault(kind, []).append(Member(key, spec, layout, start, sections))
        start += sections
    for members in groups.values():
        yield members[0].layout.kernel_shape, members[0].layout.cols == 1, members


def gather(sections: Float[Tensor, "B P h"], members: list[Member]) -> Float[Tensor, "B p h"]:
    """Return the vectors of the members' sections, in their order."""
    index = [m.start + i for m in members for i in range(m.sections)]
    if index == list(range(sections.shape[1])):
        return sections
    return sections.index_select(1, torch.tensor(index, device=sections.device))


class SectionInput(nn.Module):
    """Node embedding + role + which section, through an MLP with a first layer of sine units.

    Sections are told apart by sines and cosines of their number, so that any number of them can
    be. The embeddings of a deep network's layers are much alike (mean cosine about 0.9 before
    training), and rectifying units would make them more so (0.95); sine units of this bandwidth
    bring it to about 0.7, so that layers differ from the start.

    Args:
        dim: Node embedding size d.
        hidden: Size h of the result.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.role = nn.Embedding(len(ROLES), dim)
        self.section = nn.Linear(2 * FREQUENCIES, dim)
        self.norm = nn.LayerNorm(dim)
        self.waves = nn.Linear(dim, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        nn.init.normal_(self.waves.weight, std=BANDWIDTH)
        nn.init.uniform_(self.waves.bias, -math.pi, math.pi)

    def forward(
        self, embeddings: Float[Tensor, "B N d"], specs: Mapping[Any, ParamSpec]
    ) -> Float[Tensor, "B P h"]:
        """Return one vector for each section, in the order of the specs."""
        rows = [
            (spec.node, _ROLE_ROWS[spec.role], section)
            for spec in specs.values()
            for section in range(sections_of(spec))
        ]
        node, role, section = torch.tensor(rows, device=embeddings.device).reshape(-1, 3).T
        scales = 2.0 ** -torch.arange(FREQUENCIES, device=embeddings.device)
        angles = section[:, None] * scales
        numbers = torch.cat([angles.sin(), angles.cos()], 1).to(embeddings.dtype)
        x = embeddings.index_select(1, node) + self.role(role) + self.section(numbers)
        return self.mlp(math.sqrt(2.0) * torch.sin(self.waves(self.norm(x))))
