"""Conditions that are numbers, taken as they are or as points of circles; nothing is learned.

What a network of rectifiers without biases emits is proportional to what it reads, so that small
numbers make small weights and small gradients. A point of a circle has the same length wherever it
lies.

Source: Gonzalez Ortiz, Guttag, Dalca 2023 (Magnitude invariant parametrizations improve
hypernetwork learning, arXiv 2304.07645), input encoding.

Shape letters used in this file:
    B: conditions. v: numbers in a value. c: size of a vector.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.conditioning.registry import CONDITIONS
from ghn.conditioning.vectors import as_vectors
from ghn.config import Config
from ghn.errors import ConfigError

__all__ = ["Values", "ValuesConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValuesConfig(Config):
    """Settings of `Values`.

    Attributes:
        inputs: Numbers v in a value.
        encoding: `"raw"`: the numbers themselves; `"circle"`: for each number g in [low, high] the
            pair cos(a), sin(a), where a goes from 0 to a quarter turn.
        low: Least number that `"circle"` takes.
        high: Largest one.
    """

    inputs: int = 1
    encoding: str = "circle"
    low: float = 0.0
    high: float = 1.0

    gives_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        bounded = -math.inf < self.low < self.high < math.inf
        if self.inputs < 1 or self.encoding not in ("raw", "circle") or not bounded:
            raise ConfigError(
                "values need inputs of at least 1, an encoding 'raw' or 'circle', and finite low < "
                f"high, got {self}"
            )

    @property
    def dim(self) -> int:
        """Size c of a vector."""
        return self.inputs * (2 if self.encoding == "circle" else 1)


@CONDITIONS.register("values")
class Values(nn.Module):
    """Numbers, or pairs of cosines and sines of them; a value is a tensor `[v]`, a batch `[B, v]`.

    Args:
        config: Number of numbers, encoding, bounds.

    Example:
        >>> Values(ValuesConfig()).encode([1.0])[0].round(decimals=3)
        tensor([[-0., 1.]])
    """

    Config: ClassVar[type[Config]] = ValuesConfig
    source: ClassVar[str] = "task"
    is_open: ClassVar[bool] = True

    def __init__(self, config: ValuesConfig) -> None:
        super().__init__()
        self.config = config
        self.low: Tensor
        self.register_buffer("low", torch.tensor(config.low), persistent=False)

    def encode(self, value: Any) -> tuple[Float[Tensor, "B c"], bool]:
        """Return what vectors are encoded to; see `ghn.conditioning.registry.Condition`.

        Raises:
            ConfigError: If a number lies outside of the bounds of a circle.
        """
        values, single = as_vectors(value, self.config.inputs, self.low)
        if self.config.encoding == "raw":
            return values, single
        low, high = self.config.low, self.config.high
        if not bool(((values >= low) & (values <= high)).all()):
            raise ConfigError(
                f"these conditions lie in [{low:g}, {high:g}], got {values.tolist()[:3]}; set low "
                "and high, or take UnitConfig(of=ValuesConfig(encoding='raw', inputs=...)) for two "
                "or more numbers without bounds"
            )
        angles = math.pi / 2 * (values - self.low) / (high - low)
        return torch.stack([angles.cos(), angles.sin()], -1).flatten(1), single
