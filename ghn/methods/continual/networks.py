"""The networks of the benchmarks, each of a width that can be changed.

Shape letters used in this file:
    b: images. k: classes. h, w: height and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ResNet32", "convnet", "perceptron"]


def perceptron(inputs: int, hidden: int, outputs: int, width: float) -> nn.Module:
    """Build a perceptron with two hidden layers."""
    units = max(1, round(hidden * width))
    return nn.Sequential(
        *(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()),
        nn.Linear(units, outputs),
    )


def convnet(outputs: int, width: float) -> nn.Module:
    """Build three normalised convolutions and a linear layer over their mean, for 32 x 32."""
    few, many = max(1, round(32 * width)), max(1, round(64 * width))
    layers: list[nn.Module] = []
    for channels, out, stride in ((3, few, 2), (few, many, 2), (many, many, 1)):
        layers.append(nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False))
        layers += [nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(many, outputs))


class _Block(nn.Module):
    """Two convolutions beside a shortcut that drops places and pads channels with zeros."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, out - channels
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.norm2 = nn.BatchNorm2d(out)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Return the sum of shortcut and convolutions, rectified."""
        short = x[:, :, :: self.stride, :: self.stride]
        short = F.pad(short, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(short + self.norm2(self.conv2(x)))


class ResNet32(nn.Module):
    """The residual network of 32 layers for CIFAR; 468,540 parameters with 60 outputs.

    Args:
        outputs: Number of outputs.
        width: Factor on the 16, 32 and 64 channels of the stages.

    Source:
        He et al. 2016 (arXiv 1512.03385, section 4.2), with biases in the convolutions, as in the
        code of arXiv 1906.00695.
    """

    def __init__(self, outputs: int = 60, width: float = 1.0) -> None:
        super().__init__()
        sizes = [max(1, round(size * width)) for size in (16, 32, 64)]
        self.conv = nn.Conv2d(3, sizes[0], 3, 1, 1)
        self.norm = nn.BatchNorm2d(sizes[0])
        blocks = []
        channels = sizes[0]
        for stage, size in enumerate(sizes):
            for index in range(5):
                blocks.append(_Block(channels, size, 2 if stage and not index else 1))
                channels = size
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, outputs)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Return logits."""
        x = self.blocks(F.relu(self.norm(self.conv(images))))
        return self.head(x.mean((2, 3)))
