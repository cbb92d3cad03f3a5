"""Tiled decoder: one block of fixed channel size for each parameter, repeated and cropped.

A node's vector becomes a small spatial map, whose centre window of the kernel's size is turned into
a block of channels; larger kernels are interpolated. Where a layer is wider than the block, the
block repeats: its rows are then equal, which is what low-rank decoding avoids.

Source: Knyazev et al. 2021 and 2023 (GHN-2, arXiv 2110.13100; GHN-3, arXiv 2303.04143), decoder.
The sizes are ours (block 32, map 7, for small images: 1.1 million parameters), and so is emitting
the sections of a fused projection one by one.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. P: sections of all parameters. h: hidden size.
    p: sections of one group. n: parameters of a stack. q: sections of each of them.
    o, i: output and input channels of the block. c: channels of the map.
    m: side of the map. K: kernel size.
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

from ghn.config import Config
from ghn.decoders.codes import lookup
from ghn.decoders.nodes import SectionInput, Stack, gather, scatter, stacks_of
from ghn.decoders.places import grid_of
from ghn.decoders.registry import DECODERS
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Recipe, Tiled

__all__ = ["TiledDecoder", "TiledDecoderConfig"]

CLASSES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class TiledDecoderConfig(Config):
    """Settings of `TiledDecoder`.

    Attributes:
        dim: Node embedding size d; the map has 2 d channels.
        hidden: Width of the MLP that reads a node.
        block: Channels o = i of the emitted block.
        map: Side m of the spatial map, odd; larger kernels are interpolated.
    """

    dim: int = 64
    hidden: int = 128
    block: int = 32
    map: int = 7

    def __post_init__(self) -> None:
        if min(self.dim, self.hidden, self.block, self.map) < 1 or self.map % 2 == 0:
            raise ConfigError(f"sizes must be at least 1 and map odd, got {self}")


@DECODERS.register("tiled")
class TiledDecoder(nn.Module):
    """Emits `Tiled` recipes for parameters of any shape.

    Matrices and kernels repeat the block along both channel axes. Handled on their own:
    parameters with a single column have a small linear layer of their own; class rows are linear
    combinations of the block's rows, one for each class, so that classes differ; a position table
    is the map itself, with channels for rows, stretched to the grid of positions; tokens before
    the grid take the map's mean. Vocabulary rows repeat the block's columns.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = TiledDecoderConfig
    single_graph = False
    pieces = "component"
    any_network = True

    def __init__(self, config: TiledDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.shared_codes = True
        channels = 2 * config.dim
        self.sections = SectionInput(config.dim, config.hidden)
        self.map = nn.Linear(config.hidden, channels * config.map**2)
        self.widen = nn.Linear(channels, 2 * channels)
        self.block = nn.Linear(2 * channels, config.block**2)
        self.vector = nn.Linear(config.hidden, config.block)
        self.place = nn.Linear(2 * channels, config.block)
        self.classes = nn.Parameter(torch.randn(CLASSES, config.block) / math.sqrt(config.block))
        # So that the elements of a block have a root mean square of about 1 at the start.
        for layer, gain in ((self.map, 1), (self.widen, 2), (self.block, 1), (self.vector, 1)):
            nn.init.normal_(layer.weight, std=math.sqrt(gain / layer.in_features))
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.place.weight, std=self.place.in_features**-0.5)

    def forward(
        self, embeddings: Float[Tensor, "B N d"], specs: Mapping[Any, ParamSpec]
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return recipes of stacks of specs; see `ghn.decoders.registry.Decoder`."""
        sections = self.sections(embeddings, specs)
        groups: dict[tuple[tuple[int, ...], bool], list[Stack]] = {}
        recipes: dict[tuple[Any, ...], Recipe] = {}
        for stack in stacks_of(specs):
            if _is_table_of_positions(stack):
                blocks = self._positions(gather(sections, [stack]), stack)
                recipes[stack.keys] = self._recipe(scatter(blocks, [stack])[0], stack)
            else:
                kind = (stack.layout.kernel_shape, stack.layout.cols == 1)
                groups.setdefault(kind, []).append(stack)
        for (kernel, single_column), stacks in groups.items():
            x = gather(sections, stacks)
            blocks = self._vectors(x, kernel) if single_column else self._blocks(x, kernel)
            for stack, own in zip(stacks, scatter(blocks, stacks), strict=True):
                recipes[stack.keys] = self._recipe(own, stack)
        return recipes

    def _blocks(
        self, x: Float[Tensor, "B p h"], kernel: tuple[int, ...]
    ) -> Float[Tensor, "B p o i K"]:
        maps = self._windows(x, kernel)  # B p K c
        size = self.config.block
        return self.block(F.relu(self.widen(maps))).unflatten(-1, (size, size)).movedim(2, -1)

    def _vectors(
        self, x: Float[Tensor, "B p h"], kernel: tuple[int, ...]
    ) -> Float[Tensor, "B p o 1 K"]:
        if kernel:  # depthwise kernels: the block's first column
            return self._blocks(x, kernel)[..., :1, :]
        return self.vector(x)[..., None, None]

    def _positions(self, x: Float[Tensor, "B p h"], stack: Stack) -> Float[Tensor, "B p o t 1"]:
        tokens, grid = grid_of(stack.spec.sizes("t"), stack.spec.role)
        grid = (math.prod(grid[:-1]), grid[-1])
        maps = self.map(x).unflatten(-1, (-1, self.config.map, self.config.map))
        stretched = F.interpolate(
            maps.flatten(0, 1), size=grid, mode="bilinear", align_corners=True
        ).flatten(2)
        mean = stretched.mean(2, keepdim=True).expand(-1, -1, tokens)
        maps = torch.cat([mean, stretched], 2).transpose(1, 2)
        codes = self.place(F.relu(self.widen(maps))).transpose(1, 2)
        return codes.unflatten(0, x.shape[:2]).unsqueeze(-1)

    def _windows(
        self, x: Float[Tensor, "B p h"], kernel: tuple[int, ...]
    ) -> Float[Tensor, "B p K c"]:
        """Make the map's centre window of a kernel's size, and nothing outside of it.

        The last two kernel axes are the window; further axes repeat it. A kernel wider than the
        map is the whole map, stretched.
        """
        side = self.config.map
        height, width = (1, *kernel)[-2:] if kernel else (1, 1)
        inner = (min(height, side), min(width, side))
        top, left = ((side - n) // 2 for n in inner)
        weight = self.map.weight.unflatten(0, (-1, side, side))
        bias = self.map.bias.unflatten(0, (-1, side, side))
        cut = (slice(None), slice(top, top + inner[0]), slice(left, left + inner[1]))
        maps = F.linear(x, weight[cut].flatten(0, 2), bias[cut].flatten())
        maps = maps.unflatten(-1, (-1, *inner))
        if inner != (height, width):
            flat = F.interpolate(
                maps.flatten(0, 1), size=(height, width), mode="bilinear", align_corners=True
            )
            maps = flat.unflatten(0, x.shape[:2])
        maps = maps.flatten(3).transpose(2, 3)
        return maps.repeat(1, 1, math.prod(kernel[:-2]), 1)

    def _recipe(self, blocks: Float[Tensor, "B n q o i K"], stack: Stack) -> Recipe:
        """Put the sections' blocks below one another; a single block tiles by itself."""
        spec, layout = stack.spec, stack.layout
        if spec.head and spec.sizes("o"):
            classes = lookup(self.classes, layout.rows // stack.sections)
            blocks = torch.einsum("co,bnqoik->bnqcik", classes, blocks)
        if stack.sections == 1:
            return Tiled(blocks[:, :, 0], layout)
        share = layout.rows // stack.sections
        repeats = -(-share // blocks.shape[3])
        stacked = blocks.repeat(1, 1, 1, repeats, 1, 1)[:, :, :, :share]
        return Tiled(stacked.flatten(2, 3), layout)


def _is_table_of_positions(stack: Stack) -> bool:
    return stack.layout.cols > 1 and {a for a in stack.spec.axes if a in "itvk"} == {"t"}
