"""Conditions that are drawn: each draw gives a network of its own.

Source: noise-conditioned hypernetworks after Krueger et al. 2017 (Bayesian hypernetworks, arXiv
1710.04759).

Shape letters used in this file:
    B: conditions. c: size of a vector.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.conditioning.registry import CONDITIONS
from ghn.conditioning.vectors import as_vectors
from ghn.config import Config
from ghn.errors import ConfigError

__all__ = ["Noise", "NoiseConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseConfig(Config):
    """Settings of `Noise`.

    Attributes:
        dim: Size c of a draw.
    """

    dim: int = 8

    gives_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"dim must be at least 1, got dim={self.dim}")


@CONDITIONS.register("noise")
class Noise(nn.Module):
    """Standard normal vectors; a value is a draw `[c]`, or several `[B, c]`, from `sample`.

    Args:
        config: Size.
    """

    Config: ClassVar[type[Config]] = NoiseConfig
    source: ClassVar[str] = "noise"
    is_open: ClassVar[bool] = True

    def __init__(self, config: NoiseConfig) -> None:
        super().__init__()
        self.config = config
        self.like: Tensor
        self.register_buffer("like", torch.zeros(()), persistent=False)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "B c"]:
        """Draw values.

        Args:
            count: How many, B.
            generator: Where the draws come from, on the CPU.
        """
        return torch.randn(count, self.config.dim, generator=generator).to(self.like)

    def encode(self, value: Any) -> tuple[Float[Tensor, "B c"], bool]:
        """Return draws as they are; see `ghn.conditioning.registry.Condition`."""
        return as_vectors(value, self.config.dim, self.like)
