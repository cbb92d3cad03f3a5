"""What decoders read: one vector for each block of rows that has its own weights.

A fused projection (query, key and value in one matrix) or a stack of experts is several parameters
in one tensor; each such section gets its own vector, and the sections share their channel codes.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. h: hidden size. P: sections of all parameters.
    p: sections of some. n: parameters of a stack.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.graphs import ROLES, ParamSpec
from ghn.kernels import Layout

__all__ = ["SectionInput", "Stack", "gather", "scatter", "sections_of", "stacks_of"]

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


@dataclasses.dataclass(frozen=True)
class Stack:
    """Parameters that differ in nothing but their nodes, and so are emitted together.

    Attributes:
        keys: The caller's names for them.
        spec: The first of them.
        layout: The matrix form of each.
        sections: Number of sections of each.
        index: Places of their sections among those of all parameters, one parameter after another.
    """

    keys: tuple[Any, ...]
    spec: ParamSpec
    layout: Layout
    sections: int
    index: list[int]


def stacks_of(specs: Mapping[Any, ParamSpec]) -> list[Stack]:
    """Group parameters by shape, axes, role, sections, and by what reads or emits the model."""
    members: dict[Hashable, list[tuple[Any, int]]] = {}
    start = 0
    for key, spec in specs.items():
        kind = (spec.shape, spec.axes, spec.role, spec.sections, spec.stem, spec.head)
        members.setdefault(kind, []).append((key, start))
        start += sections_of(spec)
    stacks = []
    for group in members.values():
        spec = specs[group[0][0]]
        count = sections_of(spec)
        index = [first + i for _, first in group for i in range(count)]
        keys = tuple(key for key, _ in group)
        stacks.append(Stack(keys, spec, Layout(spec.shape, spec.axes), count, index))
    return stacks


def gather(sections: Float[Tensor, "B P h"], stacks: Sequence[Stack]) -> Float[Tensor, "B p h"]:
    """Return the vectors of the stacks' sections, in their order."""
    index = [i for stack in stacks for i in stack.index]
    return sections.index_select(1, torch.tensor(index, device=sections.device))


def scatter(values: Float[Tensor, "B p *x"], stacks: Sequence[Stack]) -> list[Tensor]:
    """Split what was emitted from gathered sections: for each stack [B, n, its sections, *x]."""
    parts = values.split([len(stack.index) for stack in stacks], 1)
    return [part.unflatten(1, (-1, s.sections)) for part, s in zip(parts, stacks, strict=True)]


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
