"""Implicit decoder: a weight is a function of where it stands in its tensor.

The function reads the parameter's node, the relative places a / A and b / B of the output and the
input channel, and the sizes A and B; it returns the whole kernel. So a trained function has a
weight for every place of a layer of any width, including widths that were never trained.

Two forms:

- `"joint"`, the published one: a network is run at every pair (a, b), chunk by chunk, so that the
  features of all pairs never exist at once.
- `"separable"`, ours: one network is run at the places a, another at the places b, and the weight
  is the product of what they emit, summed over a rank. That costs A + B runs in place of A B, the
  recipe stays two thin factors, and an average over moved places is one of factors.

While training, places are moved at random by up to half of `noise` channels up or down, those of
all axes of one length alike: a channel that is one tensor's row and another's column moves in both.
In evaluation mode the weight is an average over `draws` of moves, the first of which is none. A
move is one along an axis: it never leads to another parameter, which is found by its node and not
by a coordinate.

Source: Yang et al. 2024 (NeuMeta, arXiv 2410.11878).

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. P: sections of all parameters. p: those of a stack.
    h: hidden size. n: parameters of a stack. q: sections of each of them. R, C: rows of a section,
    columns. K: kernel size. r: rank. S: side of the kernel that the network emits, squared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ghn.config import Config
from ghn.decoders.field import (
    MAX_BANDS,
    FieldNet,
    draws_of,
    features_of,
    num_features,
    places_of,
)
from ghn.decoders.nodes import SectionInput, Stack, gather, stacks_of
from ghn.decoders.registry import DECODERS
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Dense, Layout, LowRank, Recipe

__all__ = ["ImplicitDecoder", "ImplicitDecoderConfig"]

CHUNK = 1 << 23  # numbers of one layer at once
SIZES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImplicitDecoderConfig(Config):
    """Settings of `ImplicitDecoder`.

    Attributes:
        dim: Node embedding size d.
        hidden: Size h of a parameter's vector and width of the networks over places.
        layers: Residual layers of a network over places.
        field: `"separable"` or `"joint"`; see the module's docstring.
        rank: Rank r of a separable field; a weight with more channels than that has at most it.
        bands: Octaves of a place, at most 16: float32 carries no more.
        kernel: Side of the emitted kernel, odd. Smaller kernels are its middle, larger ones are
            interpolated.
        noise: How far a place moves while training, in channels.
        draws: Number of draws that a weight is the average of, in evaluation mode.
    """

    dim: int = 64
    hidden: int = 128
    layers: int = 2
    field: str = "separable"
    rank: int = 64
    bands: int = 8
    kernel: int = 3
    noise: float = 0.0
    draws: int = 1

    def __post_init__(self) -> None:
        if min(self.dim, self.hidden, self.layers, self.rank, self.kernel, self.draws) < 1:
            raise ConfigError(f"all sizes of a decoder must be at least 1, got {self}")
        if not 0 <= self.bands <= MAX_BANDS or self.kernel % 2 == 0 or self.noise < 0:
            raise ConfigError(
                f"bands must lie in [0, {MAX_BANDS}], kernel be odd, noise not negative: {self}"
            )
        if self.field not in ("separable", "joint"):
            raise ConfigError(f"field must be 'separable' or 'joint', got field={self.field!r}")


@DECODERS.register("implicit")
class ImplicitDecoder(nn.Module):
    """Emits parameters of any shape as values of a function of their places.

    Args:
        config: Sizes and form.
    """

    Config: ClassVar[type[Config]] = ImplicitDecoderConfig
    single_graph = False
    shared_codes = False
    pieces = "chunk"  # of one element: a place
    any_network = True

    def __init__(self, config: ImplicitDecoderConfig) -> None:
        super().__init__()
        self.config = config
        hidden, area = config.hidden, config.kernel**2
        self.sections = SectionInput(config.dim, hidden)
        self.sizes = nn.Linear(SIZES, hidden, bias=False)
        self.row_places = nn.Linear(num_features(config.bands), hidden)
        self.col_places = nn.Linear(num_features(config.bands), hidden)
        # Those of one forward pass, by number of channels.
        self._places: dict[int, list[Tensor]] = {}
        if config.field == "joint":
            self.pairs = FieldNet(hidden, hidden, config.layers, area)
        else:
            self.rows = FieldNet(hidden, hidden, config.layers, config.rank)
            self.cols = FieldNet(hidden, hidden, config.layers, config.rank * area)

    def forward(
        self, embeddings: Float[Tensor, "B N d"], specs: Mapping[Any, ParamSpec]
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return recipes of stacks of specs; see `ghn.decoders.registry.Decoder`."""
        self._places.clear()
        sections = self.sections(embeddings, specs)
        stacks = stacks_of(specs)
        vectors = [self._sized(gather(sections, [stack]), stack) for stack in stacks]
        emit = self._joint if self.config.field == "joint" else self._separable
        recipes = emit(vectors, stacks)
        return dict(zip([stack.keys for stack in stacks], recipes, strict=True))

    def _sized(self, vectors: Float[Tensor, "B p h"], stack: Stack) -> Float[Tensor, "B p h"]:
        sizes = [
            math.log2(1 + stack.layout.rows // stack.sections),
            math.log2(1 + stack.layout.cols),
        ]
        return vectors + self.sizes(vectors.new_tensor(sizes) / 8.0)

    def _separable(
        self, vectors: list[Float[Tensor, "B _ h"]], stacks: list[Stack]
    ) -> list[Recipe]:
        rank = self.config.rank
        rows = [stack.layout.rows // stack.sections for stack in stacks]
        lefts = self._at_places(self.rows, self.row_places, vectors, rows)
        # The sections of a parameter share its columns.
        whole = [
            v.unflatten(1, (-1, stack.sections)).mean(2)
            for v, stack in zip(vectors, stacks, strict=True)
        ]
        cols = [stack.layout.cols for stack in stacks]
        rights = self._at_places(self.cols, self.col_places, whole, cols)
        recipes: list[Recipe] = []
        for left, right, stack in zip(lefts, rights, stacks, strict=True):
            left = left.unflatten(1, (-1, stack.sections)).flatten(2, 3)
            right = right.unflatten(-1, (rank, -1)).movedim(-2, 2) / math.sqrt(rank)  # B n r C S
            right = _fitted(right, self.config.kernel, stack.layout)
            recipes.append(LowRank(left, right.flatten(3), stack.layout))
        return recipes

    def _at_places(
        self,
        net: nn.Module,
        layer: nn.Linear,
        vectors: list[Float[Tensor, "B _ h"]],
        counts: list[int],
    ) -> list[Float[Tensor, "B _ _ y"]]:
        """Run a network at all places of axes; those of one length are run together."""
        found: list[Tensor] = list(vectors)
        for count in set(counts):
            members = [i for i, n in enumerate(counts) if n == count]
            together = torch.cat([vectors[i] for i in members], 1)
            drawn = [net(together, x) for x in self._first(layer, count)]
            parts = torch.stack(drawn).mean(0).split([vectors[i].shape[1] for i in members], 1)
            for i, part in zip(members, parts, strict=True):
                found[i] = part
        return found

    def _joint(self, vectors: list[Float[Tensor, "B _ h"]], stacks: list[Stack]) -> list[Recipe]:
        recipes: list[Recipe] = []
        for own, stack in zip(vectors, stacks, strict=True):
            layout = stack.layout
            rows = self._first(self.row_places, layout.rows // stack.sections)
            cols = self._first(self.col_places, layout.cols)
            drawn = [self._pairs(own, r, c) for r, c in zip(rows, cols, strict=True)]
            values = _fitted(torch.stack(drawn).mean(0), self.config.kernel, layout)
            values = values.unflatten(1, (-1, stack.sections)).flatten(2, 3)
            recipes.append(Dense(layout.to_storage(values), layout))
        return recipes

    def _pairs(
        self,
        vectors: Float[Tensor, "B p h"],
        rows: Float[Tensor, "R h"],
        cols: Float[Tensor, "C h"],
    ) -> Float[Tensor, "B p R C S"]:
        """Run the network at all pairs, some rows at a time; what lies between is not kept."""
        step = max(1, CHUNK // max(vectors.numel() * len(cols), 1))
        parts = []
        for some in rows.split(step):
            x = some[:, None] + cols
            if step < len(rows) and torch.is_grad_enabled():
                parts.append(checkpoint(self.pairs, vectors, x, use_reentrant=False))
            else:
                parts.append(self.pairs(vectors, x))
        if not parts:
            return vectors.new_zeros(*vectors.shape[:2], 0, len(cols), self.config.kernel**2)
        return torch.cat(parts, 2)

    def _first(self, layer: nn.Linear, count: int) -> list[Float[Tensor, "n h"]]:
        """Return the first layer at all places of an axis, for each draw."""
        config = self.config
        if count not in self._places:
            self._places[count] = (
                [places_of(count, config.noise)]
                if self.training
                else draws_of(count, config.noise, config.draws)
            )
        places = self._places[count]
        return [layer(features_of(x.to(layer.weight), config.bands)) for x in places]


def _fitted(
    values: Float[Tensor, "B n *x S"], side: int, layout: Layout
) -> Float[Tensor, "B n *x K"]:
    """Make kernels of a parameter's shape from emitted square ones.

    The last two kernel axes are the picture; further ones repeat it. In each direction a smaller
    kernel is the middle, and one that is larger in any direction is the stretched middle.
    """
    height, width = (1, *layout.kernel_shape)[-2:] if layout.kernel_shape else (1, 1)
    inner = (min(height, side), min(width, side))
    top, left = ((side - n) // 2 for n in inner)
    square = values.unflatten(-1, (side, side))
    square = square[..., top : top + inner[0], left : left + inner[1]]
    if inner != (height, width):
        lead = square.shape[:-2]
        square = F.interpolate(
            square.reshape(1, -1, *inner), (height, width), mode="bilinear", align_corners=True
        ).reshape(*lead, height, width)
    return square.flatten(-2).repeat(*[1] * (values.ndim - 1), math.prod(layout.kernel_shape[:-2]))
