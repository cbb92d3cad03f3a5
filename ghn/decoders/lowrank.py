"""Low-rank decoder: every parameter is a product of two thin factors.

Two heads make the factors. The *factor* head, ours and the default, emits an r x r core for each
parameter and kernel position and multiplies it with the codes of the parameter's rows and columns:
W[:, :, k] = L M_k R^T. It works at any width. The *reshaped* head is LoGAH's: one MLP output is
reshaped to factors of a maximal width and cropped.

Source: Zhou et al. 2024 (LoGAH, arXiv 2405.16287), low-rank decoder. The factor head is ours.

Shape letters used in this file:
    B: conditions. N: nodes. P: sections of all parameters.
    R, C, K: rows, columns and kernel size of a parameter in matrix form.
    r: rank. s: kernel basis.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.config import Config
from ghn.decoders.codes import Codes, lookup
from ghn.decoders.nodes import SectionInput, sections_of
from ghn.decoders.registry import DECODERS
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Layout, LowRank, Recipe

__all__ = ["LowRankDecoder", "LowRankDecoderConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankDecoderConfig(Config):
    """Settings of `LowRankDecoder`.

    Attributes:
        dim: Node embedding size d.
        hidden: Width of the MLP that reads a node.
        rank: Rank r of every emitted weight; LoGAH's scripts use 32 to 256.
        kernel_basis: Number s of cores that a parameter's kernel positions mix.
        rows: Rows of the channel tables; wider layers follow the width rule of
            `ghn.decoders.codes`.
        head: `"factor"` or `"reshaped"`.
    """

    dim: int = 64
    hidden: int = 128
    rank: int = 32
    kernel_basis: int = 9
    rows: int = 2048
    head: str = "factor"

    def __post_init__(self) -> None:
        if min(self.dim, self.hidden, self.rank, self.kernel_basis, self.rows) < 1:
            raise ConfigError(f"all sizes of a decoder must be at least 1, got {self}")
        if self.head not in ("factor", "reshaped"):
            raise ConfigError(f"head must be 'factor' or 'reshaped', got head={self.head!r}")


@DECODERS.register("lowrank")
class LowRankDecoder(nn.Module):
    """Emits `LowRank` recipes for parameters of any shape.

    Args:
        config: Sizes and head.
    """

    Config: ClassVar[type[Config]] = LowRankDecoderConfig

    def __init__(self, config: LowRankDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.sections = SectionInput(config.dim, config.hidden)
        make = _FactorHead if config.head == "factor" else _ReshapedHead
        self.head = make(config)

    def forward(
        self,
        embeddings: Float[Tensor, "B N d"],
        specs: Mapping[Any, ParamSpec],
        order: Mapping[Any, Tensor] | None = None,
    ) -> dict[Any, Recipe]:
        """Return one recipe for each spec; see `ghn.decoders.registry.Decoder`."""
        emitted = self.head.emit(self.sections(embeddings, specs))
        recipes: dict[Any, Recipe] = {}
        at = 0
        for key, spec in specs.items():
            count = sections_of(spec)
            own = emitted[:, at : at + count]
            at += count
            recipes[key] = self.head.factors(own, spec, None if order is None else order.get(key))
        return recipes


class _FactorHead(nn.Module):
    """W[:, :, k] = L (sum_s c_s(k) M_s) R^T, with M emitted, L and R codes, c of the position."""

    def __init__(self, config: LowRankDecoderConfig) -> None:
        super().__init__()
        self.rank, self.basis = config.rank, config.kernel_basis
        self.codes = Codes(config.rows, config.rank)
        self.core = nn.Linear(config.hidden, config.kernel_basis * config.rank**2)
        self.mix = nn.Sequential(nn.Linear(5, 32), nn.GELU(), nn.Linear(32, config.kernel_basis))
        # Entries of W sum r * r products of codes with entries of the core.
        nn.init.normal_(self.core.bias, std=1.0 / config.rank)
        nn.init.normal_(self.core.weight, std=1.0 / (config.rank * math.sqrt(config.hidden)))

    def emit(self, sections: Float[Tensor, "B P h"]) -> Float[Tensor, "B P s r r"]:
        return self.core(sections).unflatten(-1, (self.basis, self.rank, self.rank))

    def factors(
        self, cores: Float[Tensor, "B p s r r"], spec: ParamSpec, order: Tensor | None
    ) -> Recipe:
        layout = Layout(spec.shape, spec.axes)
        sections = cores.shape[1]
        rows = self.codes.rows(spec, layout.rows // sections, order)
        cols = self.codes.cols(spec, layout.cols, order)
        mix = self.mix(kernel_coordinates(layout.kernel_shape).to(cores))
        mixed = torch.einsum("ks,bpsij->bpkij", mix, cores)
        left = torch.einsum("oi,bpkij->bpokj", rows, mixed).reshape(len(cores), -1, self.rank)
        right = cols.T.expand(len(cores), -1, -1)
        return LowRank(left, right, layout)


class _ReshapedHead(nn.Module):
    """LoGAH's head: MLP, reshape to [2 r, r], ReLU, Linear(r, K), view as factors, crop."""

    def __init__(self, config: LowRankDecoderConfig) -> None:
        super().__init__()
        self.rank, self.rows = config.rank, config.rows
        self.core = nn.Linear(config.hidden, 2 * config.rank**2)
        self.widen = nn.Linear(config.rank, config.rows)

    def emit(self, sections: Float[Tensor, "B P h"]) -> Float[Tensor, "B P 2K r"]:
        cores = self.core(sections).unflatten(-1, (2 * self.rank, self.rank))
        return self.widen(cores.relu()).flatten(-2).unflatten(-1, (2 * self.rows, self.rank))

    def factors(
        self, factors: Float[Tensor, "B p 2K r"], spec: ParamSpec, order: Tensor | None
    ) -> Recipe:
        layout = Layout(spec.shape, spec.axes)
        batch, sections = factors.shape[:2]
        fold = layout.kernel_shape[0] if layout.kernel_shape else 1
        q = layout.kernel // fold if fold else 1
        tall = layout.rows // sections * fold
        left = torch.stack(
            [
                torch.cat([lookup(f[s, : self.rows], tall, order) for s in range(sections)])
                for f in factors
            ]
        )
        right = torch.stack([lookup(f[0, self.rows :], layout.cols * q, order) for f in factors])
        return LowRank(left.reshape(batch, -1, self.rank), right.transpose(1, 2), layout)


@functools.lru_cache(maxsize=256)
def kernel_coordinates(shape: tuple[int, ...]) -> Float[Tensor, "K 5"]:
    """Return height and width of each kernel position, relative and absolute, and the size.

    Relative coordinates lie in [-1, 1], absolute ones count thirds of a step from the centre, the
    size is log2 of the number of positions. Kernels of one axis have no height; of three, the first
    axis is folded into the height.
    """
    height, width = math.prod(shape[:-1]), shape[-1] if shape else 1
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    columns = []
    for index, size in ((y, height), (x, width)):
        centred = index.flatten() - (size - 1) / 2
        columns += [centred / max((size - 1) / 2, 1.0), centred / 3.0]
    columns.append(torch.full((height * width,), math.log2(max(height * width, 1)) / 4.0))
    return torch.stack(columns, 1)
