"""What the benchmarks are trained and scored on.

Shape letters used in this file:
    n: images. c: channels. h, w: height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Float16, UInt8
from torch import Tensor

from ghn.rng import make_generator

__all__ = ["Examples", "Features"]

AT_ONCE = 4  # batches, where nothing is trained


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images, and what a network is to make of them.

    Attributes:
        images: Pixels in [0, 255].
        labels: Classes, classes of pixels, or the images themselves.
        hash: Identifies the data in records of results.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Tensor
    hash: str

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return some of the images, and their labels; indices may lie on another device."""
        index = index.to(self.images.device, non_blocking=True)
        return self.images[index], self.labels[index]

    def to(self, device: torch.device) -> Examples:
        """Return the examples on a device."""
        images, labels = self.images.to(device), self.labels.to(device)
        return dataclasses.replace(self, images=images, labels=labels)


@dataclasses.dataclass(frozen=True)
class Features:
    """What the body made of images, in half precision, and their labels.

    Attributes:
        values: Features.
        labels: As of `Examples`.
        batch: Images of a batch.
        seed: Of the order of batches, and of noise.
        spread: Where features are random, their standard deviations; `values` are then the means.
    """

    values: Float16[Tensor, "n ..."]
    labels: Tensor
    batch: int
    seed: int
    spread: Float16[Tensor, "n ..."] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches in random order, without end."""
        generator = make_generator(self.seed, "batches")
        while True:
            order = torch.randperm(len(self), generator=generator).to(self.values.device)
            for index in order.split(self.batch):
                values = self.values[index].float()
                if self.spread is not None:
                    noise = torch.randn(values.shape, generator=generator)
                    spread = self.spread[index].float()
                    values = values + spread * noise.to(values.device, non_blocking=True)
                yield values, self.labels[index]

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all features once, without noise, and their labels."""
        size = AT_ONCE * self.batch
        for values, labels in zip(self.values.split(size), self.labels.split(size), strict=True):
            yield values.float(), labels
