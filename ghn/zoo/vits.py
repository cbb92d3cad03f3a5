"""Vision transformers for 32 x 32 images, and their samplers.

Source: the ViTs-1K of Zhou et al. 2024 (LoGAH, arXiv 2405.16287), section on data, which the family
`vits-1k` draws. `vits` are smaller and cheaper, for training on a processor: widths 48 to 160, and
a cap on multiply-adds.

Shape letters used in this file:
    b: images. t: tokens. c: channels of a token.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.config import Config
from ghn.errors import ConfigError
from ghn.zoo.registry import SAMPLERS, Sampler, Split, between, choose

__all__ = ["ViT", "ViTConfig", "sample_vit", "sample_vit_1k"]

MAX_COST = 10_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig(Config):
    """Settings of `ViT`.

    Attributes:
        width: Channels c of a token.
        layers: Number of transformer layers.
        heads: Attention heads; divides `width`.
        patch: Side of a patch in pixels; divides `image`.
        ratio: Hidden width of the MLP in units of `width`.
        pool: `"token"` (a class token) or `"mean"`.
        image: Side of the image in pixels.
        classes: Number of classes.
    """

    width: int = 96
    layers: int = 4
    heads: int = 3
    patch: int = 4
    ratio: int = 4
    pool: str = "token"
    image: int = 32
    classes: int = 10

    def __post_init__(self) -> None:
        if self.width % self.heads or self.image % self.patch:
            raise ConfigError(f"heads must divide width and patch must divide image, got {self}")
        if self.pool not in ("token", "mean"):
            raise ConfigError(f"pool must be 'token' or 'mean', got {self.pool!r}")

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return (self.image // self.patch) ** 2

    @property
    def cost(self) -> int:
        """Multiply-adds of one forward pass, about."""
        layer = (4 + 2 * self.ratio) * self.width**2 + 2 * self.tokens * self.width
        return self.tokens * (self.layers * layer + 3 * self.patch**2 * self.width)


class ViT(nn.Module):
    """A pre-norm vision transformer.

    Args:
        config: Sizes.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        c = config.width
        self.config = config
        self.patches = nn.Conv2d(3, c, config.patch, config.patch)
        extra = int(config.pool == "token")
        self.token = nn.Parameter(torch.randn(1, 1, c) * 0.02) if extra else None
        self.position = nn.Parameter(torch.randn(1, config.tokens + extra, c) * 0.02)
        self.layers = nn.ModuleList(
            _Layer(c, config.heads, config.ratio) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(c)
        self.head = nn.Linear(c, config.classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Return class logits."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.position
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.token is not None else x.mean(1))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, ratio * width)
        self.down = nn.Linear(ratio * width, width)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        b, t, c = x.shape
        parts = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, c // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def sample_vit(generator: torch.Generator, split: Split) -> ViTConfig:
    """Draw an architecture of a split's range."""
    while True:
        width, layers = _size(generator, split)
        config = ViTConfig(
            width=width,
            layers=layers,
            heads=choose(generator, [h for h in (2, 3, 4, 6, 8) if width % h == 0]),
            patch=choose(generator, [4, 8, 2], [0.7, 0.25, 0.05]),  # with 2, all exceed the cap
            ratio=choose(generator, [2, 3, 4], [0.25, 0.25, 0.5]),
            pool=choose(generator, ["token", "mean"]),
        )
        cap = MAX_COST if split in ("train", "val", "test") else 8 * MAX_COST
        if config.cost <= cap:
            return config


def _size(generator: torch.Generator, split: Split) -> tuple[int, int]:
    if split == "wide":
        return between(generator, 192, 320, 16), between(generator, 3, 5)
    if split == "deep":
        return between(generator, 48, 96, 16), between(generator, 9, 12)
    return between(generator, 48, 160, 8), between(generator, 2, 7)


def sample_vit_1k(generator: torch.Generator, split: Split) -> ViTConfig:
    """Draw an architecture with the ranges of ViTs-1K; wide and deep ones lie beyond them."""
    layers, (low, high) = _size_1k(generator, split)
    width = between(generator, low, high, 32)
    divisors = {12: [3, 6, 12], 6: [3, 6], 3: [3], 1: [4, 8]}
    heads = next(heads for divisor, heads in divisors.items() if width % divisor == 0)
    return ViTConfig(
        width=width, layers=layers, heads=choose(generator, heads), patch=choose(generator, [2, 4])
    )


def _size_1k(generator: torch.Generator, split: Split) -> tuple[int, tuple[int, int]]:
    if split == "wide":
        return between(generator, 3, 5), (544, 768)
    if split == "deep":
        return between(generator, 10, 12), (128, 256)
    layers = between(generator, 3, 9)
    return layers, (384, 512) if layers == 3 else (256, 384) if layers <= 5 else (128, 256)


def example(config: ViTConfig) -> Float[Tensor, "b 3 h w"]:
    """Return an input of the right form."""
    return torch.zeros(1, 3, config.image, config.image)


SAMPLERS.register("vits")(Sampler(sample_vit, ViT, example, "vision", "small vision transformers"))
SAMPLERS.register("vits-1k")(
    Sampler(sample_vit_1k, ViT, example, "vision", "vision transformers of LoGAH's ViTs-1K")
)
