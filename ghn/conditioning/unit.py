"""Any condition, with vectors of one length: what decides is the direction alone.

Source: Gonzalez Ortiz, Guttag, Dalca 2023 (arXiv 2304.07645): encodings of constant norm, for
conditions that have no bounds.

Shape letters used in this file:
    B: conditions. T: tokens. c: size of a token or vector.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.conditioning.images import ImageEncoderConfig
from ghn.conditioning.noise import NoiseConfig
from ghn.conditioning.registry import CONDITIONS
from ghn.conditioning.table import EmbeddingTableConfig
from ghn.conditioning.values import ValuesConfig
from ghn.conditioning.vectors import VectorEncoderConfig
from ghn.config import Config
from ghn.errors import ConfigError
from ghn.registry import build

__all__ = ["Unit", "UnitConfig"]

Inner = EmbeddingTableConfig | VectorEncoderConfig | ImageEncoderConfig | ValuesConfig | NoiseConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitConfig(Config):
    """Settings of `Unit`.

    Attributes:
        of: Settings of the condition; their type chooses it.
    """

    of: Inner = dataclasses.field(default_factory=EmbeddingTableConfig)

    def __post_init__(self) -> None:
        if self.of.dim < 2:
            raise ConfigError(
                f"of one number, only the sign would be left; a condition needs two, got {self.of}"
            )

    @property
    def dim(self) -> int:
        """Size c of a vector or token."""
        return self.of.dim

    @property
    def gives_tokens(self) -> bool:
        """Whether tokens come out instead of one vector."""
        return self.of.gives_tokens


@CONDITIONS.register("unit")
class Unit(nn.Module):
    """Another condition, whose vectors or tokens are divided by their root mean square.

    Args:
        config: What the other one is.

    Attributes:
        of: The other condition, with all that it can do, such as `add` of an `EmbeddingTable`.
    """

    Config: ClassVar[type[Config]] = UnitConfig

    def __init__(self, config: UnitConfig) -> None:
        super().__init__()
        self.of: Any = build(CONDITIONS, config.of)
        self.source: str = self.of.source
        self.is_open: bool = self.of.is_open
        self.architecture: tuple[str, ...] = getattr(self.of, "architecture", ())

    @property
    def config(self) -> UnitConfig:
        """The settings, with what was added to the other condition since."""
        return UnitConfig(of=self.of.config)

    def encode(self, value: Any) -> tuple[Float[Tensor, "B *T c"], bool]:
        """Return what values are encoded to; see `ghn.conditioning.registry.Condition`.

        Raises:
            ConfigError: If a number is not finite.
        """
        encoded, single = self.of.encode(value)
        if not encoded.isfinite().all():
            raise ConfigError(f"a condition must be finite to have a direction, got {value!r}")
        # Squares of very large and very small numbers are no floats; a power of two costs no digit.
        _, power = torch.frexp(encoded.detach().abs().amax(-1, keepdim=True))
        encoded = torch.ldexp(encoded, -power)
        return math.sqrt(encoded.shape[-1]) * F.normalize(encoded, dim=-1), single
