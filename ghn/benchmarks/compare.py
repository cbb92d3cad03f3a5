"""Train one model from one start, and compare starts over seeds.

Both starts see the same batches in the same order, since the order depends on the seed alone.
Accuracy is taken on a copy whose BatchNorm statistics were estimated anew on the same training
images, so that step 0 is fair to a model that never ran.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ghn.rng import make_generator

__all__ = ["Images", "Run", "Schedule", "accuracy", "mean_and_spread", "reach", "train"]


@dataclasses.dataclass(frozen=True)
class Images:
    """Normalised images and labels to train on and to test with."""

    train_x: Float[Tensor, "n 3 h w"]
    train_y: Int[Tensor, " n"]
    test_x: Float[Tensor, "m 3 h w"]
    test_y: Int[Tensor, " m"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a model is trained.

    Attributes:
        steps: Number of AdamW steps.
        batch: Images in a step.
        rate: Peak learning rate, reached after a tenth of the steps, then a cosine to zero.
        weight_decay: AdamW's decay.
        tests: Number of times the accuracy is taken, step 0 and the last step included.
    """

    steps: int
    batch: int
    rate: float
    weight_decay: float = 0.01
    tests: int = 5

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def test_steps(self) -> list[int]:
        """Return the numbers of steps after which the accuracy is taken."""
        return sorted({round(i * self.steps / (self.tests - 1)) for i in range(self.tests)})


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training gave.

    Attributes:
        losses: Training loss of each step.
        accuracy: Pairs (steps done, share of test images told right).
    """

    losses: list[float]
    accuracy: list[tuple[int, float]]

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last tenth of the steps; infinite if it is not finite."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        mean = sum(last) / len(last)
        return mean if math.isfinite(mean) else math.inf


def train(model: nn.Module, images: Images, schedule: Schedule, seed: int) -> Run:
    """Train a model in place.

    Args:
        model: Emits logits; on the CPU.
        images: What to train on and to test with.
        schedule: Steps, rates, batch.
        seed: Decides the order of the batches, nothing else.
    """
    generator = make_generator(seed, "batches")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay
    )
    tests = schedule.test_steps()
    losses: list[float] = []
    accuracies = [(0, accuracy(model, images, schedule.batch))]
    for step in range(schedule.steps):
        chosen = torch.randint(len(images.train_x), (schedule.batch,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(step)
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images.train_x[chosen]), images.train_y[chosen])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step + 1 in tests:
            accuracies.append((step + 1, accuracy(model, images, schedule.batch)))
    return Run(losses, accuracies)


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, batch: int, recalibration: int = 8) -> float:
    """Return the share of test images told right; the model stays as it is.

    Args:
        model: Emits logits.
        images: The first training images are for BatchNorm's statistics.
        batch: Images in one forward pass of the recalibration.
        recalibration: Number of such passes.
    """
    model = copy.deepcopy(model)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the passes
        model.train()
        for part in images.train_x[: recalibration * batch].split(batch):
            model(part)
    model.eval()
    right = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(images.test_x.split(250), images.test_y.split(250), strict=True)
    )
    return right / len(images.test_y)


def reach(losses: Sequence[float], goal: float, window: int) -> int | None:
    """Return after how many steps the mean loss of the last `window` steps is at most `goal`.

    None if that never happens.
    """
    for step in range(window, len(losses) + 1):
        if sum(losses[step - window : step]) / window <= goal:
            return step
    return None


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation over seeds; 0 for a single seed."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
