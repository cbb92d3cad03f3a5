"""The models of the demo: fixed here before the embedded checkpoint was trained.

None of them is in the checkpoint's training set. A net of dense concatenations is of a family that
its samplers lack altogether; MobileNetV3's mix of kernels, activations and squeeze-and-excitation
is none that they draw. Sizes are such that the demo takes four minutes on two cores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["TARGETS", "PooledViT", "TinyDenseNet"]


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Mix the tokens of each image."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.grow = nn.Linear(width, 3 * width)
        self.shrink = nn.Linear(3 * width, width)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        """Add attention, then the two-layer perceptron."""
        x = x + self.attention(self.norm1(x))
        return x + self.shrink(F.gelu(self.grow(self.norm2(x))))


class PooledViT(nn.Module):
    """A small vision transformer without a class token: the mean of the tokens is classified.

    Args:
        width: Channels of a token.
        depth: Number of layers.
        heads: Attention heads; they divide `width`.
        patch: Pixels along the side of a patch; it divides `size`.
        size: Pixels along the side of an image.
        classes: Number of classes.
    """

    def __init__(
        self,
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        patch: int = 4,
        size: int = 32,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.zeros(1, (size // patch) ** 2, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Return logits."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class DenseLayer(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution whose output is appended to its input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_out h w"]:
        """Append new channels."""
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)


class TinyDenseNet(nn.Module):
    """A small DenseNet: three dense blocks, halved in size and channels in between.

    Args:
        growth: Channels that a layer appends.
        layers: Layers in each block.
        classes: Number of classes.
    """

    def __init__(self, growth: int = 16, layers: int = 4, classes: int = 10) -> None:
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        stages: list[nn.Module] = []
        for stage in range(3):
            for _ in range(layers):
                stages.append(DenseLayer(channels, growth))
                channels += growth
            if stage < 2:
                stages.append(nn.BatchNorm2d(channels))
                stages.append(nn.ReLU())
                stages.append(nn.Conv2d(channels, channels // 2, 1, bias=False))
                stages.append(nn.AvgPool2d(2))
                channels //= 2
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Return logits."""
        x = F.relu(self.norm(self.stages(self.stem(images))))
        return self.head(x.mean((2, 3)))


def _timm(name: str, classes: int = 10) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=classes)


# Name, what it is, and how to build it. All take 32 x 32 images in 3 channels; `classes` is 10.
TARGETS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "mobilenetv3_small_050": (
        "timm; inverted bottlenecks of varied kernels and activations",
        functools.partial(_timm, "mobilenetv3_small_050"),
    ),
    "PooledViT": ("hand-written; a vision transformer that averages its tokens", PooledViT),
    "TinyDenseNet": (
        "hand-written; dense concatenation, a family the sampler lacks",
        TinyDenseNet,
    ),
}
