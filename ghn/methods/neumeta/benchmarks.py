"""The benchmarks: data, a trained network, and what its body makes of the data, computed once.

Shape letters used in this file:
    n: images. c: channels. h, w: height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float16, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.data import ImageData, augment, load_images, normalize
from ghn.errors import CheckpointError
from ghn.io import read_tensors, write_tensors
from ghn.methods.neumeta.fit import READ, finite
from ghn.methods.neumeta.networks import ResNet
from ghn.registry import Registry
from ghn.rng import make_generator, preserve_global_state

__all__ = ["BENCHMARKS", "Benchmark", "Features", "Source", "accuracy", "source_of"]

AT_ONCE = 500
SPLITS = {"test": ("train", "test"), "val": ("fit", "val")}
KIND = "source"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A network and the data that it is for.

    Attributes:
        summary: One line.
        data: Name for `ghn.data.load_images`.
        side: Height and width of images, in pixels.
        network: Builds the untrained network.
        steps: SGD steps with which it is trained.
        rate: Their largest learning rate.
        augmented: Whether images are shifted and flipped meanwhile.
        batch: Images in a step, here and in all that follows.
        settings: Settings of families, over their defaults.
    """

    summary: str
    data: str
    side: int
    network: Callable[[], ResNet]
    steps: int
    rate: float = 0.1
    augmented: bool = False
    batch: int = 64
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


BENCHMARKS: Registry[Benchmark] = Registry("benchmark")
"""Benchmarks by name."""

BENCHMARKS.register("digits")(
    Benchmark(
        summary="scikit-learn's 8 x 8 digits; a convolution and two residual blocks of 32 channels",
        data="digits",
        side=8,
        network=lambda: ResNet((32,), (0,), 2, 10, stride=2),
        steps=500,
        settings={
            "steps": 400,
            "widths": 9,
            "decoder": {"hidden": 96, "rank": 32, "bands": 6},
        },
    )
)
BENCHMARKS.register("cifar10")(
    Benchmark(
        summary="CIFAR-10; ResNet-20, of which the last two blocks are resized",
        data="cifar10",
        side=32,
        network=lambda: ResNet((16, 32, 64), (3, 3, 1), 2, 10),
        steps=12_000,
        augmented=True,
        batch=128,
        settings={"steps": 4000, "widths": 9, "decoder": {"hidden": 192, "bands": 7}},
    )
)


@dataclasses.dataclass(frozen=True)
class Features:
    """What the body made of images, in half precision, and their labels.

    Attributes:
        values: Features.
        labels: Class of each image.
        batch: Images of a batch.
        seed: Of the order of batches.
    """

    values: Float16[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    batch: int
    seed: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches in random order, without end."""
        generator = make_generator(self.seed, "batches")
        while True:
            order = torch.randperm(len(self.labels), generator=generator).to(self.values.device)
            for index in order.split(self.batch):
                yield self.values[index].float(), self.labels[index]


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained network and its features.

    Attributes:
        network: The network.
        train: Features to train on.
        test: Features to score on.
    """

    network: ResNet
    train: Features
    test: Features


def source_of(
    benchmark: Benchmark,
    split: str,
    seed: int,
    path: Path,
    device: torch.device,
    progress: Callable[[int, int, str], None],
) -> Source:
    """Return the trained network of a seed, from its file if it was trained before.

    Args:
        benchmark: What it is.
        split: `"test"`, or `"val"` to choose settings by.
        seed: Of weights and batches.
        path: Where it is kept.
        device: Where the network and its features shall be.
        progress: Called with steps done, steps in all, and a text.
    """
    train, test = (load_images(benchmark.data, s, benchmark.side).to(device) for s in SPLITS[split])
    with preserve_global_state():
        torch.default_generator.manual_seed(seed)
        network = benchmark.network().to(device)
    header = {"summary": benchmark.summary, "steps": benchmark.steps, "data": train.hash}
    if path.exists():
        tensors, found = read_tensors(path, KIND)
        if found != header:
            raise CheckpointError(f"{path} is of another benchmark: {found}; choose another --out")
        network.load_state_dict(tensors)
    else:
        _train(network, benchmark, train, seed, progress)
        write_tensors(path, network.state_dict(), KIND, header)
    network.eval()
    parts = [_features(network.body, data, benchmark.batch, seed) for data in (train, test)]
    return Source(network, *parts)


def accuracy(model: nn.Module, features: Features) -> float:
    """Return the share of a model's right answers, in percent, over all features."""
    parts = zip(features.values.split(AT_ONCE), features.labels.split(AT_ONCE), strict=True)
    with torch.no_grad():
        right = [(model(x.float()).argmax(1) == y).sum() for x, y in parts]
    return 100.0 * int(torch.stack(right).sum()) / len(features.labels)


def _train(
    network: nn.Module,
    benchmark: Benchmark,
    data: ImageData,
    seed: int,
    progress: Callable[[int, int, str], None],
) -> None:
    generator = make_generator(seed, "source")
    optimizer = torch.optim.SGD(
        network.parameters(), benchmark.rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, benchmark.rate, total_steps=benchmark.steps
    )
    network.train()
    unread = []
    for step in range(benchmark.steps):
        chosen = data.take(torch.randint(len(data), (benchmark.batch,), generator=generator))
        images = augment(chosen.images, generator) if benchmark.augmented else chosen.images
        loss = F.cross_entropy(network(normalize(images)), chosen.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        unread.append(loss.detach())
        if len(unread) == READ or step + 1 == benchmark.steps:
            last = finite(unread, step + 1 - len(unread))[-1]
            unread.clear()
            progress(step + 1, benchmark.steps, f"full network, loss {last:.3f}")


@torch.no_grad()
def _features(body: nn.Module, data: ImageData, batch: int, seed: int) -> Features:
    parts = [body(normalize(images)).half() for images in data.images.split(AT_ONCE)]
    return Features(torch.cat(parts), data.labels, batch, seed)
