"""What networks are trained for: losses, scores, and pictures of what they do.

Shape letters used in this file:
    b: images of a batch. k: classes. c: channels. h, w: height and width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.methods.neumeta.features import Features
from ghn.methods.neumeta.fit import Divergence, Loss, class_divergence

__all__ = ["CLASSES", "IMAGES", "PIXELS", "Task", "accuracy", "image_error", "mean_iou"]

Objective = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
SHOWN = 4  # scenes of a picture
SAMPLES = (2, 8)  # rows and columns of a sheet of samples
CODES = 0.2  # weight of the divergence of codes, against squared errors summed over an image
# CamVid's own colours of its eleven classes.
COLOURS = (
    *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222)),
    *((128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a network is trained for.

    Attributes:
        score: Name and unit of its score.
        digits: Decimals of the score in tables.
        loss: Of outputs and labels.
        divergence: Of outputs and those of the full network.
        measure: Returns the score of a tail over all features.
        objective: Loss of the full network, of itself, images, labels, and a generator on the CPU;
            None for `loss` of its outputs.
        picture: Returns a picture of what a tail does, if there is one.
    """

    score: str
    digits: int
    loss: Loss
    divergence: Divergence
    measure: Callable[[nn.Module, Features], float]
    objective: Objective | None = None
    picture: Callable[[nn.Module, Features], UInt8[Tensor, "h w 3"]] | None = None


@torch.no_grad()
def accuracy(model: nn.Module, features: Features) -> float:
    """Return the share of a model's right answers, in percent, over all features."""
    right = [(model(x).argmax(1) == y).sum() for x, y in features.in_order()]
    return 100.0 * int(torch.stack(right).sum()) / len(features)


def pixel_loss(outputs: Float[Tensor, "b k h w"], labels: UInt8[Tensor, "b h w"]) -> Tensor:
    """Return the mean cross-entropy over pixels that have a class; the others are marked k."""
    return F.cross_entropy(outputs, labels.long(), ignore_index=outputs.shape[1])


@torch.no_grad()
def mean_iou(model: nn.Module, features: Features) -> float:
    """Return the mean intersection over union of classes, in percent, over all features.

    Pixels of all images are counted together; those without a class, marked k, are left out, and so
    are classes that are neither there nor answered.
    """
    counts = [_confusion(model(x), y) for x, y in features.in_order()]
    table = torch.stack(counts).sum(0).double().cpu()
    both = table.diagonal()
    either = table.sum(0) + table.sum(1) - both
    return 100.0 * float((both[either > 0] / either[either > 0]).mean())


def _confusion(
    outputs: Float[Tensor, "b k h w"], labels: UInt8[Tensor, "b h w"]
) -> Int64[Tensor, "k k"]:
    """Return how many pixels of each class (rows) are taken for each class (columns)."""
    count = outputs.shape[1]
    places = labels.long() * count + outputs.argmax(1)
    # Pixels without a class fill a further row, which is dropped.
    table = torch.bincount(places.flatten(), minlength=count * (count + 1))
    return table.reshape(-1, count)[:count]


@torch.no_grad()
def _scenes(model: nn.Module, features: Features) -> UInt8[Tensor, "h w 3"]:
    """Return the classes that a tail gives to pixels of a few scenes, in colours."""
    chosen = torch.linspace(0, len(features) - 1, SHOWN).long()
    values = features.values[chosen.to(features.values.device)].float()
    colours = torch.tensor(COLOURS, dtype=torch.uint8)
    return torch.cat(list(colours[model(values).argmax(1).cpu()]), 1)


def image_loss(outputs: Float[Tensor, "b c h w"], images: UInt8[Tensor, "b c h w"]) -> Tensor:
    """Return the squared error of an image in [0, 1], summed over pixels; the mean over images."""
    return (outputs - images / 255.0).square().flatten(1).sum(1).mean()


def _image_divergence(outputs: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return the squared distance of images, summed over pixels; they have no temperature."""
    return (outputs - target).square().flatten(1).sum(1).mean()


@torch.no_grad()
def image_error(model: nn.Module, features: Features) -> float:
    """Return `image_loss` over all features."""
    sums = [image_loss(model(x), y) * len(y) for x, y in features.in_order()]
    return float(torch.stack(sums).double().sum()) / len(features)


def variational_loss(
    network: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the error of images made from random codes, and the codes' divergence from a prior."""
    mean, deviation = network.get_submodule("body")(images)
    noise = torch.randn(mean.shape, generator=generator).to(mean.device, non_blocking=True)
    error = image_loss(network.get_submodule("tail")(mean + deviation * noise), labels)
    squares = mean.square() + deviation.square()
    return error + CODES * (0.5 * (squares - 1.0) - deviation.log()).sum(1).mean()


@torch.no_grad()
def _samples(model: nn.Module, features: Features) -> UInt8[Tensor, "h w 3"]:
    """Return images of codes that were drawn from the prior, always the same codes."""
    rows, columns = SAMPLES
    shape = (rows * columns, *features.values.shape[1:])
    codes = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    images = model(codes.to(features.values.device))[:, 0].cpu()
    grid = images.unflatten(0, SAMPLES).movedim(1, 2).flatten(0, 1).flatten(1)
    return (255.0 * grid).round().to(torch.uint8)[..., None].expand(-1, -1, 3)


CLASSES = Task(
    score="accuracy, %",
    digits=1,
    loss=F.cross_entropy,
    divergence=class_divergence,
    measure=accuracy,
)
PIXELS = Task(
    score="mean intersection over union, %",
    digits=1,
    loss=pixel_loss,
    divergence=class_divergence,
    measure=mean_iou,
    picture=_scenes,
)
IMAGES = Task(
    score="squared error of an image (less is better)",
    digits=2,
    loss=image_loss,
    divergence=_image_divergence,
    measure=image_error,
    objective=variational_loss,
    picture=_samples,
)
