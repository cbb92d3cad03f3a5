"""The benchmarks: data, a network, what it is for, and how it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ghn.data import augment, load_images, load_scenes
from ghn.engine.select import Generate
from ghn.methods.neumeta.features import Examples
from ghn.methods.neumeta.networks import VAE, ResNet, UNet
from ghn.methods.neumeta.tasks import CLASSES, IMAGES, PIXELS, Task
from ghn.registry import Registry

__all__ = ["BENCHMARKS", "SPLITS", "Benchmark", "adamw", "classes_of"]

SPLITS = {"test": ("train", "test"), "val": ("fit", "val")}
SCENES = {"train": "train", "fit": "train", "val": "val", "test": "test"}

Batch = tuple[Tensor, Tensor]


def _sgd(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4, nesterov=True)


def adamw(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """Return AdamW with the weight decay of the benchmarks."""
    return torch.optim.AdamW(parameters, rate, weight_decay=1e-2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A network, what it is for, and the data.

    Attributes:
        summary: One line.
        data: Name of the data.
        read: Reads a split of it: `"train"`, `"test"`, or for choices `"fit"`, `"val"`.
        task: What the network is for.
        network: Builds the untrained network, of a `body` and a `tail`.
        steps: Steps with which it is trained.
        rate: Their largest learning rate.
        optimizer: What takes them.
        vary: Changes a batch meanwhile, given a generator on the CPU; None for no change.
        batch: Images in a step, here and in all that follows.
        settings: Settings of families, over their defaults.
        generate: Which parameters of the tail are generated; see `Family`.
        identity: What else results depend on, if a name does not stand for it; JSON types.
    """

    summary: str
    data: str
    read: Callable[[str], Examples]
    task: Task = CLASSES
    network: Callable[[], nn.Module]
    steps: int
    rate: float = 0.1
    optimizer: Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer] = _sgd
    vary: Callable[[Tensor, Tensor, torch.Generator], Batch] | None = None
    batch: int = 64
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    generate: Generate = "blocks.*"
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)


def classes_of(name: str, side: int) -> Callable[[str], Examples]:
    """Return what reads a split of labelled images; see `ghn.data.load_images`."""

    def read(split: str) -> Examples:
        data = load_images(name, split, side)
        return Examples(data.images, data.labels, data.hash)

    return read


def _scenes(split: str) -> Examples:
    data = load_scenes("camvid", SCENES[split])
    return Examples(data.images, data.labels, data.hash)


def _grey(split: str) -> Examples:
    data = load_images("mnist", split, 28)
    images = data.images[:, :1].contiguous()
    return Examples(images, images, data.hash)


def _shift(images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    return augment(images, generator), labels


def _mirror(images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    """Flip scenes left to right at random, with the classes of their pixels."""
    flip = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    images = torch.where(flip[:, None, None, None], images.flip(-1), images)
    return images, torch.where(flip[:, None, None], labels.flip(-1), labels)


BENCHMARKS: Registry[Benchmark] = Registry("benchmark")
"""Benchmarks by name."""

BENCHMARKS.register("digits")(
    Benchmark(
        summary="scikit-learn's 8 x 8 digits; a convolution and two residual blocks of 32 channels",
        data="digits",
        read=classes_of("digits", 8),
        network=lambda: ResNet((32,), (0,), 2, 10, stride=2),
        steps=500,
        settings={
            "steps": 400,
            "base_rate": 1e-2,
            "widths": 9,
            "decoder": {"hidden": 96, "rank": 32, "bands": 6},
        },
    )
)
BENCHMARKS.register("cifar10")(
    Benchmark(
        summary="CIFAR-10; ResNet-20, of which the last two blocks are resized",
        data="cifar10",
        read=classes_of("cifar10", 32),
        network=lambda: ResNet((16, 32, 64), (3, 3, 1), 2, 10),
        steps=12_000,
        vary=_shift,
        batch=128,
        settings={
            "steps": 4000,
            "base_rate": 1e-2,
            "widths": 9,
            "decoder": {"hidden": 192, "bands": 7},
        },
    )
)
BENCHMARKS.register("camvid")(
    Benchmark(
        summary="CamVid at 192 x 144; a U-Net, of which the last two blocks are resized",
        data="camvid",
        read=_scenes,
        task=PIXELS,
        network=lambda: UNet((48, 64, 96, 128), 2, 11),
        steps=1500,
        rate=2e-3,
        optimizer=adamw,
        vary=_mirror,
        batch=8,
        settings={
            "steps": 500,
            "base_rate": 1e-3,
            "widths": 9,
            "calibration": 24,
            "decoder": {"hidden": 192, "bands": 7},
        },
    )
)
BENCHMARKS.register("mnist-vae")(
    Benchmark(
        summary="MNIST; a variational autoencoder, of which the decoder's blocks are resized",
        data="mnist",
        read=_grey,
        task=IMAGES,
        network=lambda: VAE(28, 64, 16),
        steps=2500,
        rate=2e-3,
        optimizer=adamw,
        batch=64,
        settings={
            "steps": 1250,
            "base_rate": 1e-3,
            "widths": 9,
            "clip": 10.0,
            "decoder": {"hidden": 192, "bands": 7},
        },
    )
)
