"""The network of the benchmark: a residual network, in a part that is kept and one that is resized.

Shape letters used in this file:
    b: images. c: channels. h, w: height and width. k: classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ResNet"]


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


class _Tail(nn.Module):
    """The blocks that are resized, the mean over places, and the layer that emits classes."""

    def __init__(self, channels: int, hidden: int, blocks: int, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(channels, hidden, channels, 1) for _ in range(blocks)))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits."""
        return self.head(self.blocks(x).mean((2, 3)))


class ResNet(nn.Module):
    """A residual network, as ResNet-20 with `channels=(16, 32, 64)` and `blocks=(3, 3, 1)`.

    What is not resized is `body`, which may be run once for all; the rest is `tail`, whose blocks'
    hidden channels are what a family resizes.

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
