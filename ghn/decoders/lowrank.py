"""Low-rank decoder: every weight is a product of two thin factors.

Two heads make the factors: `ghn.decoders.factor` (ours, the default; any width) and
`ghn.decoders.reshaped` (LoGAH's).

Source: Zhou et al. 2024 (LoGAH, arXiv 2405.16287), low-rank decoder.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ghn.config import Config
from ghn.decoders.factor import FactorHead
from ghn.decoders.nodes import SectionInput
from ghn.decoders.registry import DECODERS
from ghn.decoders.reshaped import ReshapedHead
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Recipe

__all__ = ["LowRankDecoder", "LowRankDecoderConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankDecoderConfig(Config):
    """Settings of `LowRankDecoder`.

    Attributes:
        dim: Node embedding size d.
        hidden: Width of the MLP that reads a node.
        rank: Rank r of every emitted weight; LoGAH's scripts use 32 to 256.
        kernel_basis: Number of matrices that a parameter's kernel elements mix; factor head only.
        rows: Rows of the code tables, or maximal width of the reshaped head; wider layers follow
            the width rule of `ghn.decoders.codes`.
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
    """Emits factors for parameters of any shape.

    Args:
        config: Sizes and head.
    """

    Config: ClassVar[type[Config]] = LowRankDecoderConfig
    single_graph = False
    pieces = "component"
    any_network = True

    def __init__(self, config: LowRankDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.shared_codes = config.head == "factor"
        self.sections = SectionInput(config.dim, config.hidden)
        self.head: nn.Module
        if config.head == "factor":
            self.head = FactorHead(config.hidden, config.rank, config.kernel_basis, config.rows)
        else:
            self.head = ReshapedHead(config.dim, config.hidden, config.rank, config.rows)

    def forward(
        self,
        embeddings: Float[Tensor, "B N d"],
        specs: Mapping[Any, ParamSpec],
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return recipes of stacks of specs; see `ghn.decoders.registry.Decoder`."""
        return self.head(self.sections(embeddings, specs), specs)
