"""Small convolutional networks for 32 x 32 images, and their sampler.

Source: in the spirit of DeepNets-1M (Knyazev et al. 2021, arXiv 2110.13100): varied operators,
normalisations, activations, stems and pools. The families and ranges are ours.

Shape letters used in this file:
    b: images. c: channels. h, w: height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.config import Config
from ghn.errors import ConfigError
from ghn.zoo.registry import SAMPLERS, Sampler, Split, between, choose

__all__ = ["ConvNet", "ConvNetConfig", "sample_convnet"]

MAX_COST = 6_000_000
EXPANSION = 2.0  # by default
KINDS = ("plain", "residual", "bottleneck", "depthwise", "inverted")
NORMS = ("batch", "group", "layer", "none")
DOWNS = ("stride", "max", "avg")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "leaky": lambda: nn.LeakyReLU(0.1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNetConfig(Config):
    """Settings of `ConvNet`.

    Attributes:
        kind: What a block is; see `KINDS`.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        kernel: Side of the blocks' spatial kernels.
        stem: Side of the first kernel.
        stem_stride: Stride of the first convolution.
        norm: Normalisation; `"layer"` is group norm with one group.
        activation: Name in `ACTIVATIONS`.
        squeeze: Whether blocks reweight their channels (squeeze and excitation).
        expansion: Hidden channels of inverted blocks, in units of the width. Other kinds have no
            use for it and take the default only, so that no two configs are one network.
        down: How a stage halves its input: `"stride"`, `"max"` or `"avg"`.
        classes: Number of classes.
    """

    kind: str = "residual"
    widths: tuple[int, ...] = (32, 64)
    depths: tuple[int, ...] = (1, 1)
    kernel: int = 3
    stem: int = 3
    stem_stride: int = 1
    norm: str = "batch"
    activation: str = "relu"
    squeeze: bool = False
    expansion: float = EXPANSION
    down: str = "stride"
    classes: int = 10

    def __post_init__(self) -> None:
        known = self.kind in KINDS and self.norm in NORMS and self.down in DOWNS
        if not known or self.activation not in ACTIVATIONS:
            raise ConfigError(f"unknown kind, norm, activation or down in {self}")
        if len(self.widths) != len(self.depths) or any(w % 8 for w in self.widths):
            raise ConfigError(f"widths must be multiples of 8, one for each depth, got {self}")
        if self.kind != "inverted" and self.expansion != EXPANSION:
            raise ConfigError(
                f"expansion is for kind='inverted', got {self.expansion} for {self.kind!r}; leave "
                "it out"
            )

    @property
    def least_image(self) -> int:
        """Side of the smallest image that its stages can halve, in pixels."""
        halved = 2 ** (len(self.widths) - 1) if self.down != "stride" else 1
        return self.stem_stride * (halved - 1) + 1

    @property
    def layers(self) -> int:
        """Number of spatial convolutions, the stem's included."""
        return 1 + sum(self.depths) * (2 if self.kind == "residual" else 1)

    @property
    def cost(self) -> int:
        """Multiply-adds of one forward pass on a 32 x 32 image, about."""
        side = 32 // self.stem_stride
        total = side**2 * self.stem**2 * 3 * self.widths[0]
        before = self.widths[0]
        for stage, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            side = side if stage == 0 else side // 2
            for _ in range(depth):
                total += side**2 * self._block_cost(before, width)
                before = width
        return total

    def _block_cost(self, before: int, width: int) -> int:
        area, hidden = self.kernel**2, int(width * self.expansion)
        return {
            "plain": area * before * width,
            "residual": area * (before + width) * width,
            "bottleneck": before * (width // 2) + area * (width // 2) ** 2 + width**2 // 2,
            "depthwise": area * before + before * width,
            "inverted": before * hidden + area * hidden + hidden * width,
        }[self.kind]


class ConvNet(nn.Module):
    """Stem, stages of equal blocks, global average pooling, linear head.

    Args:
        config: Sizes and operators.
    """

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.widths[0]
        self.stem = _unit(config, 3, width, config.stem, config.stem_stride)
        blocks: list[nn.Module] = []
        for stage, (out, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for index in range(depth):
                halve = stage > 0 and index == 0
                if halve and config.down != "stride":
                    blocks.append(nn.MaxPool2d(2) if config.down == "max" else nn.AvgPool2d(2))
                stride = 2 if halve and config.down == "stride" else 1
                blocks.append(_block(config, width, out, stride))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, config.classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Return class logits."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def _norm(config: ConvNetConfig, width: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(width)
    if config.norm == "none":
        return nn.Identity()
    return nn.GroupNorm(1 if config.norm == "layer" else 8, width)


def _unit(
    config: ConvNetConfig,
    before: int,
    width: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    active: bool = True,
) -> nn.Sequential:
    """Convolution, normalisation, activation."""
    bias = config.norm == "none"
    conv = nn.Conv2d(before, width, kernel, stride, kernel // 2, groups=groups, bias=bias)
    parts = [conv, _norm(config, width)]
    return nn.Sequential(*parts, *([ACTIVATIONS[config.activation]()] if active else []))


def _block(config: ConvNetConfig, before: int, width: int, stride: int) -> nn.Module:
    k = config.kernel
    squeeze = [_Squeeze(width)] if config.squeeze else []
    if config.kind == "plain":
        return nn.Sequential(_unit(config, before, width, k, stride), *squeeze)
    if config.kind == "depthwise":
        spatial = _unit(config, before, before, k, stride, groups=before)
        return nn.Sequential(spatial, _unit(config, before, width, 1), *squeeze)
    if config.kind == "residual":
        two = [
            _unit(config, before, width, k, stride),
            _unit(config, width, width, k, active=False),
        ]
        return _Residual(config, nn.Sequential(*two, *squeeze), before, width, stride, True)
    if config.kind == "bottleneck":
        half = width // 2 // 8 * 8 or 8
        narrow: list[nn.Module] = [
            _unit(config, before, half, 1),
            _unit(config, half, half, k, stride),
            _unit(config, half, width, 1, active=False),
        ]
        return _Residual(config, nn.Sequential(*narrow, *squeeze), before, width, stride, True)
    hidden = int(width * config.expansion) // 8 * 8
    branch: list[nn.Module] = [
        _unit(config, before, hidden, 1),
        _unit(config, hidden, hidden, k, stride, groups=hidden),
        *([_Squeeze(hidden)] if config.squeeze else []),
        _unit(config, hidden, width, 1, active=False),
    ]
    return _Residual(config, nn.Sequential(*branch), before, width, stride, False)


class _Residual(nn.Module):
    """Adds a branch to its input, projected where shapes differ; inverted blocks then drop it."""

    def __init__(
        self,
        config: ConvNetConfig,
        branch: nn.Module,
        before: int,
        width: int,
        stride: int,
        active: bool,
    ) -> None:
        super().__init__()
        self.branch = branch
        same = before == width and stride == 1
        self.adds = same or active
        self.skip = (
            _unit(config, before, width, 1, stride, active=False)
            if self.adds and not same
            else nn.Identity()
        )
        self.act = ACTIVATIONS[config.activation]() if active else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        y = self.branch(x)
        return self.act(y + self.skip(x)) if self.adds else self.act(y)


class _Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, max(width // 4, 8), 1)
        self.up = nn.Conv2d(max(width // 4, 8), width, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(torch.relu(self.down(pooled))))


def sample_convnet(generator: torch.Generator, split: Split) -> ConvNetConfig:
    """Draw an architecture of a split's range."""
    # Kind and norm are drawn once: redrawn with the sizes, the dearer kinds would be rare.
    kind = choose(generator, list(KINDS), [0.2, 0.25, 0.12, 0.18, 0.25])
    bare = 0.10 if kind in ("plain", "residual") else 0.0
    norm = choose(generator, list(NORMS), [0.52, 0.28, 0.10, bare])
    while True:
        widths, depths = _sizes(generator, split)
        config = ConvNetConfig(
            kind=kind,
            widths=widths,
            depths=depths,
            kernel=choose(generator, [3, 5, 7], [0.75, 0.2, 0.05]),
            stem=choose(generator, [3, 5, 7], [0.7, 0.2, 0.1]),
            stem_stride=choose(generator, [1, 2], [0.45, 0.55]),
            norm=norm,
            activation=choose(generator, list(ACTIVATIONS), [0.45, 0.2, 0.15, 0.1, 0.1]),
            squeeze=choose(generator, [False, True], [0.8, 0.2]),
            # Drawn for all kinds, so that what follows does not depend on the kind.
            expansion=choose(generator, [2.0, 3.0, 4.0] if kind == "inverted" else 3 * [EXPANSION]),
            down=choose(generator, ["stride", "max", "avg"], [0.6, 0.25, 0.15]),
        )
        cap = MAX_COST if split in ("train", "val", "test") else 14 * MAX_COST
        if config.cost <= cap and _fits(config, split):
            return config


def _sizes(generator: torch.Generator, split: Split) -> tuple[tuple[int, ...], tuple[int, ...]]:
    stages = between(generator, 2, 3) if split != "wide" else 3
    low, high = (80, 128) if split == "wide" else (16, 64)
    widths = [between(generator, low, high, 8)]
    for _ in range(stages - 1):
        steps = [0.0, 0.3, 0.7] if split == "wide" else [0.2, 0.3, 0.5]
        widths.append(int(widths[-1] * choose(generator, [1.0, 1.5, 2.0], steps)) // 8 * 8)
    deepest = {"deep": 8, "wide": 2}.get(split, 3)
    shallowest = 4 if split == "deep" else 1
    depths = [between(generator, shallowest, deepest) for _ in range(stages)]
    return tuple(widths), tuple(depths)


def _fits(config: ConvNetConfig, split: Split) -> bool:
    """Whether width and depth lie in the split's range.

    Trained networks have up to 256 channels and 10 spatial layers; wide ones have more channels in
    the first stage (see `_sizes`) and in the last, deep ones more layers.
    """
    if split == "deep":
        return config.layers > 12
    return config.layers <= 10 and (split != "wide" or config.widths[-1] > 256)


def example(config: ConvNetConfig) -> Float[Tensor, "b 3 h w"]:
    """Return an input of the right form."""
    return torch.zeros(1, 3, 32, 32)


SAMPLERS.register("convnets")(
    Sampler(
        sample_convnet,
        ConvNet,
        example,
        "vision",
        "small convolutional networks, in the spirit of DeepNets-1M",
    )
)
