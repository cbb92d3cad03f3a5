"""Fixed codes: what an operator is and where it stands, without a single parameter.

A hypernetwork of one network has no use for an encoder that generalises over networks; it only
must tell the nodes apart, and must not spend parameters on that.

Shape letters used in this file:
    N: nodes of all graphs of the batch.
    d: embedding size.
    F: features of a node.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.config import Config
from ghn.encoders.registry import ENCODERS
from ghn.errors import ConfigError
from ghn.graphs.batch import FEATURES, GraphBatch
from ghn.graphs.ops import OPERATORS
from ghn.rng import make_generator

__all__ = ["FixedCodes", "FixedCodesConfig"]

SHORTEST = 3.0  # levels; the wavelengths grow in octaves


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedCodesConfig(Config):
    """Settings of `FixedCodes`.

    Attributes:
        dim: Size `d` of a code, even: half of it says where the node stands, half what it is.
    """

    dim: int = 8

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ConfigError(f"dim must be even and at least 2, got dim={self.dim}")


@ENCODERS.register("fixed")
class FixedCodes(nn.Module):
    """Waves of a node's level, and a fixed random projection of its operator and its sizes.

    Args:
        config: Size.
    """

    Config: ClassVar[type[Config]] = FixedCodesConfig

    def __init__(self, config: FixedCodesConfig) -> None:
        super().__init__()
        self.config = config
        half = config.dim // 2
        scale = math.sqrt(1.0 / len(FEATURES))
        # A row of its own for each operator, so that a longer vocabulary changes no code.
        operator = [torch.randn(half, generator=make_generator(0, "code", op)) for op in OPERATORS]
        sizes = torch.randn(len(FEATURES), half, generator=make_generator(0, "code of sizes"))
        self.operator: Tensor
        self.sizes: Tensor
        self.register_buffer("operator", torch.stack(operator), persistent=False)
        self.register_buffer("sizes", scale * sizes, persistent=False)

    def forward(self, batch: GraphBatch) -> Float[Tensor, "N d"]:
        """Return the code of every node of the batch."""
        count = self.operator.shape[1]
        octaves = 2.0 ** torch.arange(-(-count // 2), device=batch.level.device)
        angles = 2 * math.pi / SHORTEST * batch.level[:, None] / octaves
        waves = torch.cat([angles.sin(), angles.cos()], 1)[:, :count].to(self.sizes)
        kind = self.operator[batch.op] + batch.features.to(self.sizes) @ self.sizes
        return torch.cat([waves, kind], 1)
