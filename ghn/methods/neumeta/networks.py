"""The networks of the benchmarks, each in a part that is kept and one that is resized.

What is kept is `body`, which may be run once for all; the rest is `tail`, whose `blocks` have the
hidden channels that a family resizes.

Shape letters used in this file:
    b: images. c: channels. h, w: height and width. k: classes. z: size of a code.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["VAE", "ResNet", "UNet"]


class _Block(nn.Module):
    """Two convolutions beside a shortcut; a projection where the shapes differ."""

    def __init__(self, channels: int, hidden: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Return the sum of shortcut and convolutions, rectified."""
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(self.shortcut(x) + branch)


def _blocks(channels: int, hidden: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels, hidden, channels, 1) for _ in range(count)))


class _Tail(nn.Module):
    """The blocks that are resized, the mean over places, and the layer that emits classes."""

    def __init__(self, channels: int, hidden: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.blocks = _blocks(channels, hidden, blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits."""
        return self.head(self.blocks(x).mean((2, 3)))


class ResNet(nn.Module):
    """A residual network, as ResNet-20 with `channels=(16, 32, 64)` and `blocks=(3, 3, 1)`.

    Args:
        channels: Channels of each stage; all but the first begin with half the resolution.
        blocks: Blocks of each stage that belong to the body.
        tail: Blocks of the tail.
        classes: Number of classes.
        stride: Of the first convolution.
        width: Factor on the hidden channels of the tail's blocks.

    Source:
        He et al. 2016 (arXiv 1512.03385, section 4.2), with projections at shortcuts.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        blocks: tuple[int, ...],
        tail: int,
        classes: int,
        stride: int = 1,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        last = channels[0]
        layers: list[nn.Module] = [
            nn.Conv2d(3, last, 3, stride, 1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(),
        ]
        for stage, (size, count) in enumerate(zip(channels, blocks, strict=True)):
            for index in range(count):
                layers.append(_Block(last, size, size, 2 if stage and not index else 1))
                last = size
        self.body = nn.Sequential(*layers)
        self.tail = _Tail(last, max(1, round(last * width)), tail, classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Return logits."""
        return self.tail(self.body(images))


class _Pyramid(nn.Module):
    """Down to a coarse picture, and up again beside what was there on the way down."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        first = channels[0]
        stem = [nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
        pairs = list(itertools.pairwise(channels))
        self.down = nn.ModuleList([nn.Sequential(*stem, _Block(first, first, first, 1))])
        self.down += [nn.Sequential(_Block(a, b, b, 2), _Block(b, b, b, 1)) for a, b in pairs]
        self.across = nn.ModuleList([nn.Conv2d(b, a, 1) for a, b in reversed(pairs)])
        self.up = nn.ModuleList([_Block(a, a, a, 1) for a, _ in reversed(pairs)])

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h_half w_half"]:
        """Return features at half the resolution."""
        x, passed = images, []
        for level in self.down:
            x = level(x)
            passed.append(x)
        for across, up, beside in zip(self.across, self.up, reversed(passed[:-1]), strict=True):
            x = F.interpolate(across(x), beside.shape[-2:], mode="bilinear")
            x = up(x + beside)
        return x


class _PixelTail(nn.Module):
    """The blocks that are resized, and the layer that emits classes of pixels."""

    def __init__(self, channels: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.blocks = _blocks(channels, channels, blocks)
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Float[Tensor, "b c h_half w_half"]) -> Float[Tensor, "b k h w"]:
        """Return logits at the full resolution."""
        return F.interpolate(self.head(self.blocks(x)), scale_factor=2.0, mode="bilinear")


class UNet(nn.Module):
    """A network that tells the class of each pixel.

    Args:
        channels: Channels at a half, a quarter, ... of the resolution, which these must divide.
        tail: Blocks of the tail, at half the resolution.
        classes: Number of classes.

    Source:
        Ronneberger et al. 2015 (arXiv 1505.04597), with residual blocks, and sums in place of
        concatenations.
    """

    def __init__(self, channels: Sequence[int], tail: int, classes: int) -> None:
        super().__init__()
        self.body = _Pyramid(channels)
        self.tail = _PixelTail(channels[0], tail, classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Return logits."""
        return self.tail(self.body(images))


class _Encoder(nn.Module):
    """Two convolutions, each at half the resolution, and a layer that emits codes."""

    def __init__(self, side: int, channels: int, code: int) -> None:
        super().__init__()
        half = channels // 2
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()),
            *(nn.Conv2d(half, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
            nn.Flatten(),
            nn.Linear(channels * (side // 4) ** 2, 2 * code),
        )

    def forward(
        self, images: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Return means of codes and their standard deviations."""
        mean, log_variance = self.layers(images).chunk(2, 1)
        return mean, (0.5 * log_variance.clamp(-12.0, 12.0)).exp()


class _Decoder(nn.Module):
    """The layer that reads codes, the blocks that are resized, and the layer that emits pixels."""

    def __init__(self, side: int, channels: int, code: int) -> None:
        super().__init__()
        self.side, self.channels = side // 4, channels
        self.stem = nn.Linear(code, channels * self.side**2)
        self.blocks = _blocks(channels, channels, 2)
        self.head = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, codes: Float[Tensor, "b z"]) -> Float[Tensor, "b 1 h w"]:
        """Return images in [0, 1]."""
        x = F.relu(self.stem(codes)).reshape(-1, self.channels, self.side, self.side)
        for block in self.blocks:
            x = F.interpolate(block(x), scale_factor=2.0, mode="nearest")
        return self.head(x).sigmoid()


class VAE(nn.Module):
    """A variational autoencoder of grey images, with residual blocks in its decoder.

    Args:
        side: Height and width of images, a multiple of four.
        channels: Channels of the decoder.
        code: Size of a code.

    Source:
        Kingma and Welling 2014 (arXiv 1312.6114).
    """

    def __init__(self, side: int, channels: int, code: int) -> None:
        super().__init__()
        self.body = _Encoder(side, channels, code)
        self.tail = _Decoder(side, channels, code)

    def forward(self, images: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Return images from means of codes."""
        return self.tail(self.body(images)[0])
