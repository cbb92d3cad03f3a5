"""Conditions that are images.

Shape letters used in this file:
    B: conditions. C: channels. H, W: height and width. T: tokens. c: size of a token or vector.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ghn.conditioning.registry import CONDITIONS
from ghn.config import Config
from ghn.errors import ConfigError, ShapeError

__all__ = ["ImageEncoder", "ImageEncoderConfig"]

STAGES = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig(Config):
    """Settings of `ImageEncoder`.

    Attributes:
        channels: Channels C of an image.
        dim: Size c of a vector or token.
        width: Channels after the first convolution; doubled by each of the next two.
        gives_tokens: Whether the places of the last map come out as tokens, instead of their mean.
    """

    channels: int = 3
    dim: int = 24
    width: int = 16
    gives_tokens: bool = False

    def __post_init__(self) -> None:
        if min(self.channels, self.dim, self.width) < 1:
            raise ConfigError(f"all sizes of an image encoder must be at least 1, got {self}")


@CONDITIONS.register("image")
class ImageEncoder(nn.Module):
    """Three convolutions of stride 2; a value is an image `[C, H, W]`, a batch `[B, C, H, W]`.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = ImageEncoderConfig
    source: ClassVar[str] = "data"
    is_open: ClassVar[bool] = True
    architecture: ClassVar[tuple[str, ...]] = ("cnn",)

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = config.channels
        for stage in range(STAGES):
            width = config.width * 2**stage
            layers += [nn.Conv2d(channels, width, 3, 2, 1), nn.GroupNorm(1, width), nn.GELU()]
            channels = width
        self.maps = nn.Sequential(*layers)
        self.out = nn.Linear(channels, config.dim)

    def encode(self, value: Any) -> tuple[Float[Tensor, "B *T c"], bool]:
        """Return what images are encoded to; see `ghn.conditioning.registry.Condition`."""
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise ConfigError(
                "this condition is an image as a floating-point tensor, or a batch of them, got "
                f"{value.dtype if isinstance(value, Tensor) else type(value).__name__}"
            )
        if value.ndim not in (3, 4) or value.shape[-3] != self.config.channels:
            raise ShapeError(
                f"this condition has shape [*B, {self.config.channels}, H, W], got "
                f"{list(value.shape)}"
            )
        single = value.ndim == 3
        maps = self.maps(value.to(self.out.weight)[None] if single else value.to(self.out.weight))
        places = maps.flatten(2).transpose(1, 2)
        if not self.config.gives_tokens:
            places = places.mean(1)
        return self.out(places), single
