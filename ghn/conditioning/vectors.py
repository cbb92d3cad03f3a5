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

__all__ = ["VectorEncoder", "VectorEncoderConfig", "as_vectors"]


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
    source: ClassVar[str] = "task"
    is_open: ClassVar[bool] = True

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
        values, single = as_vectors(value, self.config.inputs, next(self.parameters()))
        encoded = self.mlp(values)
        if self.config.tokens:
            encoded = encoded.unflatten(1, (self.config.tokens, self.config.dim))
        return encoded, single


def as_vectors(value: Any, size: int, like: Tensor) -> tuple[Float[Tensor, "B v"], bool]:
    """Return a value as a batch of vectors, and whether it was a single one.

    Args:
        value: A vector of numbers, or a batch of them.
        size: Numbers v in a vector.
        like: Has the type and the device of the result.

    Raises:
        ConfigError: If the value is no such thing.
        ShapeError: If it has another shape.
    """
    try:
        values = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"this condition is {size} numbers, or a batch of such vectors, got "
            f"{type(value).__name__}: {error}"
        ) from error
    if values.ndim not in (1, 2) or values.shape[-1] != size:
        raise ShapeError(
            f"this condition has shape [{size}] or [B, {size}], got {list(values.shape)}"
        )
    return values.reshape(-1, size), values.ndim == 1
