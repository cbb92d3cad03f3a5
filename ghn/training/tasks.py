"""What target networks are trained for: batches of inputs with labels, and a score.

Shape letters used in this file:
    b: images or texts. t: tokens. k: classes, or tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ghn.data import ImageData, TextData, augment, load_images, load_text, normalize
from ghn.errors import DataError
from ghn.rng import make_generator
from ghn.training.config import TrainConfig

__all__ = [
    "Batches",
    "ImageTask",
    "Task",
    "TextTask",
    "cross_entropy",
    "format_score",
    "make_task",
]

Run = Callable[[Tensor], Tensor]
"""From inputs to logits."""

PIXELS_AT_ONCE = 1 << 20  # that many are scored at once: 1,024 images of 32 x 32
TEXTS_AT_ONCE = 16


def cross_entropy(logits: Float[Tensor, "*b k"], labels: Int64[Tensor, "*b"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over all labels, in nats."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def format_score(value: float, metric: str) -> str:
    """Return a task's score as it is shown: accuracy in percent, bits per byte as they are."""
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{value:.3f}"


@runtime_checkable
class Task(Protocol):
    """A task.

    Attributes:
        name: Data set and split.
        hash: Identifies the data.
        metric: What `score` returns: `"accuracy"` or `"bits per byte"`.
        settings: What the data decide of target networks; see `ghn.zoo.registry.Sampler.fit_to`.
    """

    name: str
    hash: str
    metric: str
    settings: dict[str, Any]

    def batch(self, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `count` inputs with their labels, augmented."""
        ...

    def score(self, run: Run, count: int) -> float:
        """Score a network on the first `count` inputs."""
        ...


class ImageTask:
    """Classify images; pixels are normalised, flipped and shifted.

    Args:
        data: Labelled images.
        flip: Share of a batch's images that are flipped left to right.
        shift: Largest shift of a batch's images, in pixels.
    """

    metric = "accuracy"

    def __init__(self, data: ImageData, flip: float = 0.5, shift: int = 4) -> None:
        self.data, self.flip, self.shift = data, flip, shift
        self.name, self.hash = data.name, data.hash
        self.settings = {"classes": len(data.classes), "image": data.images.shape[-1]}

    def batch(
        self, count: int, draws: torch.Generator
    ) -> tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, " b"]]:
        """Draw images with their classes."""
        index = torch.randint(len(self.data), (count,), generator=draws)
        images = augment(self.data.images[index], draws, self.flip, self.shift)
        images = normalize(images)
        return images.contiguous(memory_format=torch.channels_last), self.data.labels[index]

    def score(self, run: Run, count: int) -> float:
        """Return the accuracy on the first images; logits that are not finite are wrong."""
        data = self.data.take(slice(0, count))
        hits = 0
        at_once = max(1, PIXELS_AT_ONCE // data.images[0, 0].numel())
        for start in range(0, len(data), at_once):
            part = data.take(slice(start, start + at_once))
            logits = run(normalize(part.images))
            # nan is no answer: argmax would take the first for one.
            hit = (logits.argmax(1) == part.labels.to(logits.device)) & logits.isfinite().all(1)
            hits += int(hit.sum())
        return hits / len(data)


class TextTask:
    """Predict each next token of excerpts.

    Args:
        data: Text.
        context: Tokens t of an excerpt.

    Raises:
        DataError: If the text is too short for an excerpt.
    """

    metric = "bits per byte"

    def __init__(self, data: TextData, context: int) -> None:
        if len(data) <= context:
            raise DataError(f"{data.name} has {len(data)} tokens, too few for {context} at a time")
        self.data, self.context = data, context
        self.name, self.hash = data.name, data.hash
        self.settings = {"vocabulary": data.vocabulary, "context": context}

    def batch(
        self, count: int, draws: torch.Generator
    ) -> tuple[Int64[Tensor, "b t"], Int64[Tensor, "b t"]]:
        """Draw excerpts with the tokens that follow."""
        starts = torch.randint(len(self.data) - self.context, (count,), generator=draws)
        return self.data.excerpts(starts, self.context)

    def score(self, run: Run, count: int) -> float:
        """Return the bits per byte of excerpts at equal distances."""
        last = len(self.data) - self.context - 1
        starts = torch.linspace(0, last, count, dtype=torch.float64).long()
        nats = 0.0
        for part in starts.split(TEXTS_AT_ONCE):
            inputs, labels = self.data.excerpts(part, self.context)
            logits = run(inputs).float()
            nats += float(cross_entropy(logits, labels.to(logits.device))) * len(part)
        return nats / len(starts) / math.log(2) * len(self.data) / self.data.bytes


def make_task(config: TrainConfig, split: str) -> Task:
    """Load the data that a run names.

    Args:
        config: Names data, modality and sizes.
        split: `"train"`, `"fit"`, `"val"` or `"test"`.
    """
    if config.modality == "text":
        return TextTask(load_text(config.data, split, config.vocabulary), config.context)
    return ImageTask(load_images(config.data, split, config.side), config.flip, config.shift)


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """A run's batches by step: what a step draws follows from the seed and its number alone.

    Args:
        task: Where they are drawn from.
        config: Batch size and seed.
    """

    def __init__(self, task: Task, config: TrainConfig) -> None:
        self.task, self.config = task, config

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        draws = make_generator(self.config.seed, "batch", step)
        return self.task.batch(self.config.batch, draws)
