"""Conditions that are vectors: preferences, transformations, sizes, measurements.

Shape letters used in this file:
    B: conditions. v: numbers in a value. T: tokens. c: size of a token or vector.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.conditioning.registry import CONDITIONS
from ghn.config import Config
from ghn.errors import ConfigError, ShapeError

__all__ = ["VectorEncoder", "VectorEncoderConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class VectorEncoderConfig(Config):
    """Settings of `VectorEncoder`.

    Attributes:
        inputs: Numbers v in a value.
        dim: Size c of a vector or token.
        hidden: Widths of the layers between; none makes the encoder linear.
        tokens: Number T of tokens; 0 gives one vector.
    """

    inputs: int = 2
    dim: int = 24
    hidden: tuple[int, ...] = (64,)
    tokens: int = 0

    def __post_init__(self) -> None:
        if min(self.inputs, self.dim, *self.hidden, self.tokens + 1) < 1:
            raise ConfigError(f"all sizes of a vector encoder must be at least 1, got {self}")

    @property
    def gives_tokens(self) -> bool:
        """Whether tokens come out instead of one vector."""
        return self.tokens > 0


@CONDITIONS.register("vector")
class VectorEncoder(nn.Module):
    """An MLP; a value is a tensor `[v]`, a batch `[B, v]`.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = VectorEncoderConfig

    def __init__(self, config: VectorEncoderConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [config.inputs, *config.hidden, config.dim * max(config.tokens, 1)]
        layers: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            layers += [nn.Linear(size, following), nn.SiLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def encode(self, value: Any) -> tuple[Float[Tensor, "B *T c"], bool]:
        """Return what vectors are encoded to; see `ghn.conditioning.registry.Condition`."""
        weight = next(self.parameters())
        try:
            values = torch.as_tensor(value, dtype=weight.dtype, device=weight.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"this condition is {self.config.inputs} numbers, or a batch of such vectors, got "
                f"{type(value).__name__}: {error}"
            ) from error
        if values.ndim not in (1, 2) or values.shape[-1] != self.config.inputs:
            raise ShapeError(
                f"this condition has shape [{self.config.inputs}] or [B, {self.config.inputs}], "
                f"got {list(values.shape)}"
            )
        encoded = self.mlp(values.reshape(-1, self.config.inputs))
        if self.config.tokens:
            encoded = encoded.unflatten(1, (self.config.tokens, self.config.dim))
        return encoded, values.ndim == 1
