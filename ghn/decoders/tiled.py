"""Tiled decoder: one block of fixed channel size for each parameter, repeated and cropped.

A node's vector becomes a small spatial map, whose centre window of the kernel's size is turned into
a block of channels; larger kernels are interpolated. Where a layer is wider than the block, the
block repeats: its rows are then equal, which is what low-rank decoding avoids.

Source: Knyazev et al. 2021 and 2023 (GHN-2, arXiv 2110.13100; GHN-3, arXiv 2303.04143), decoder.
The sizes are ours: block 32 and map 7, for small images.

Shape letters used in this file:
    B: conditions. N: nodes. P: sections of all parameters.
    o, i: output and input channels of the block. m: side of the map. K: kernel size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.config import Config
from ghn.decoders.codes import CLASSES, lookup, position_features
from ghn.decoders.nodes import SectionInput, sections_of
from ghn.decoders.registry import DECODERS
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Layout, Recipe, Tiled

__all__ = ["TiledDecoder", "TiledDecoderConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TiledDecoderConfig(Config):
    """Settings of `TiledDecoder`.

    Attributes:
        dim: Node embedding size d.
        hidden: Width of the MLP that reads a node, and of the map's channels.
        block: Channels o = i of the emitted block.
        map: Side m of the spatial map, odd; larger kernels are interpolated.
    """

    dim: int = 64
    hidden: int = 128
    block: int = 64
    map: int = 7

    def __post_init__(self) -> None:
        if min(self.dim, self.hidden, self.block, self.map) < 1 or self.map % 2 == 0:
            raise ConfigError(f"sizes must be at least 1 and map odd, got {self}")


@DECODERS.register("tiled")
class TiledDecoder(nn.Module):
    """Emits `Tiled` recipes for parameters of any shape.

    Class rows and positions are products of the block with a learned matrix of classes, and of
    Fourier features of the positions, so that they do not repeat.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = TiledDecoderConfig

    def __init__(self, config: TiledDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.sections = SectionInput(config.dim, config.hidden)
        self.spread = nn.Linear(config.hidden, 32 * config.map**2)
        self.channels = nn.Sequential(
            nn.Linear(32, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.block**2),
        )
        self.classes = nn.Parameter(torch.randn(CLASSES, config.block) / config.block**0.5)
        features = position_features((4,), True).shape[1]
        self.position = nn.Linear(features, config.block)

    def forward(
        self,
        embeddings: Float[Tensor, "B N d"],
        specs: Mapping[Any, ParamSpec],
        order: Mapping[Any, Tensor] | None = None,
    ) -> dict[Any, Recipe]:
        """Return one recipe for each spec; see `ghn.decoders.registry.Decoder`."""
        side = self.config.map
        maps = self.spread(self.sections(embeddings, specs)).unflatten(-1, (32, side, side))
        recipes: dict[Any, Recipe] = {}
        at = 0
        for key, spec in specs.items():
            count = sections_of(spec)
            own = maps[:, at : at + count]
            at += count
            recipes[key] = self._tile(own, spec, None if order is None else order.get(key))
        return recipes

    def _tile(self, maps: Tensor, spec: ParamSpec, order: Tensor | None) -> Recipe:
        layout = Layout(spec.shape, spec.axes)
        window = _centre(maps, layout.kernel_shape)  # [B, p, 32, K]
        size = self.config.block
        block = self.channels(window.transpose(-1, -2)).unflatten(-1, (size, size))
        block = block.permute(0, 1, 3, 4, 2)  # [B, p, o, i, K]
        if order is not None:
            rows = order[order < size]
            block = block[:, :, rows][:, :, :, rows]
        if spec.head:
            rows = lookup(self.classes, layout.rows // maps.shape[1])
            block = torch.einsum("co,bpoik->bpcik", rows, block)
        if spec.sizes("t"):
            cols = self.position(position_features(spec.sizes("t"), spec.role == "table").to(maps))
            block = torch.einsum("ti,bpoik->bpotk", cols, block)
        return Tiled(self._stack(block, layout, maps.shape[1]), layout)

    def _stack(self, block: Tensor, layout: Layout, sections: int) -> Tensor:
        """Fit each section's block to its share of the rows, then put sections below another."""
        if sections == 1:
            return block[:, 0]
        share = layout.rows // sections
        repeats = -(-share // block.shape[2])
        return block.repeat(1, 1, repeats, 1, 1)[:, :, :share].flatten(1, 2)


def _centre(
    maps: Float[Tensor, "B p c m m"], kernel: tuple[int, ...]
) -> Float[Tensor, "B p c K"]:
    """Cut the centre window of a kernel's size; interpolate where the kernel is larger."""
    side = maps.shape[-1]
    depth = kernel[:-2]
    height, width = (1, *kernel)[-2:] if kernel else (1, 1)
    if max(height, width) > side:
        flat = F.interpolate(maps.flatten(0, 1), size=(max(height, side), max(width, side)),
                             mode="bilinear", align_corners=True)  # fmt: skip
        maps = flat.unflatten(0, maps.shape[:2])
    top, left = (maps.shape[-2] - height) // 2, (maps.shape[-1] - width) // 2
    window = maps[..., top : top + height, left : left + width].flatten(-2)
    copies = 1
    for size in depth:
        copies *= size
    return window.repeat(1, 1, 1, copies) if copies > 1 else window
