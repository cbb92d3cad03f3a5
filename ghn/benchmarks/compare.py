"""Train one model from one start, and compare starts over seeds.

All starts see the same batches in the same order, and what dropout draws is the same, since both
depend on the seed alone. Scores are taken with BatchNorm statistics that were estimated anew on the
same training batches, so that step 0 is fair to a model that never ran.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghn.benchmarks.cuda_graphs import Replayed
from ghn.device import run_in
from ghn.engine.recalibrate import batch_norms, recalibrate_statistics
from ghn.engine.undo import Snapshot
from ghn.errors import InputError
from ghn.rng import derive_seed, make_generator, preserve_global_state
from ghn.training.schedule import rise_and_fall
from ghn.training.tasks import Task, cross_entropy

__all__ = [
    "Curve",
    "Data",
    "Run",
    "Schedule",
    "logits_of",
    "mean_and_spread",
    "reach",
    "score",
    "train",
]

RECALIBRATION = 8  # batches
WEIGHT_DECAY = 0.01

Curve = list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Data:
    """What a model is trained on and scored on.

    Attributes:
        train: Where batches are drawn from.
        test: What scores are taken on.
        scored: Largest number of inputs that a score is taken on, the first of them.
        others: Further data of the same kind that scores are taken on.
    """

    train: Task
    test: Task
    scored: int
    others: tuple[Task, ...] = ()

    @property
    def tests(self) -> tuple[Task, ...]:
        """All that scores are taken on."""
        return (self.test, *self.others)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a model is trained.

    Attributes:
        steps: Number of AdamW steps.
        batch: Inputs in a step.
        rate: Peak learning rate, reached after a tenth of the steps, then a cosine to zero.
        clip: Largest norm of the gradient; 0 for any.
        mixed_precision: `"bf16"` for what the model computes in steps and scores, or `"no"`.
        tests: Number of times the score is taken, step 0 and the last step included; 0 for none.
        cuda_graphs: Whether steps on a GPU are recorded once and replayed.
    """

    steps: int
    batch: int
    rate: float
    clip: float = 0.0
    mixed_precision: str = "no"
    tests: int = 5
    cuda_graphs: bool = False

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.rate * rise_and_fall(step, self.steps, max(1, self.steps // 10))

    def test_steps(self) -> list[int]:
        """Return the numbers of steps after which the score is taken."""
        count = max(self.tests - 1, 1)
        return sorted({round(i * self.steps / count) for i in range(self.tests)})


@dataclasses.dataclass(frozen=True)
class Run:
    """What one training gave.

    Attributes:
        losses: Training loss of each step.
        scores: Pairs (steps done, score on the test data: accuracy, or bits per byte).
        others: The same on further test data, by their names.
    """

    losses: list[float]
    scores: Curve
    others: dict[str, Curve] = dataclasses.field(default_factory=dict)

    @property
    def final_loss(self) -> float:
        """Mean training loss of the last tenth of the steps; infinite if it is not finite."""
        last = self.losses[-max(1, len(self.losses) // 10) :]
        mean = sum(last) / len(last)
        return mean if math.isfinite(mean) else math.inf


def train(model: nn.Module, data: Data, schedule: Schedule, seed: int) -> Run:
    """Train a model in place.

    Args:
        model: Emits logits; trained on the device where it is.
        data: What to train on and to test with.
        schedule: Steps, rates, batch.
        seed: Decides what the batches are, and what layers such as dropout draw.
    """
    device = next(model.parameters()).device
    optimizer, step = _stepper(model, schedule)
    tests = schedule.test_steps()
    losses: list[Tensor] = []
    curves: list[Curve] = [[] for _ in data.tests]
    with preserve_global_state(derive_seed(seed, "training")):
        for number in range(schedule.steps + 1):
            if number in tests:
                values = _scores(model, data, schedule.batch, schedule.mixed_precision)
                for curve, value in zip(curves, values, strict=True):
                    curve.append((number, value))
            if number == schedule.steps:
                break
            inputs, labels = data.train.batch(schedule.batch, make_generator(seed, "batch", number))
            _set_rate(optimizer, schedule.rate_at(number))
            model.train()
            losses.append(step(inputs.to(device), labels.to(device)))
    # Losses are read at the end: each reading waits for the device.
    others = {task.name: curve for task, curve in zip(data.others, curves[1:], strict=True)}
    return Run(torch.stack(losses).tolist(), curves[0], others)


def _stepper(
    model: nn.Module, schedule: Schedule
) -> tuple[torch.optim.Optimizer, Callable[[Tensor, Tensor], Tensor]]:
    """Return an optimizer, and what takes a step on inputs and labels and returns the loss."""
    device = next(model.parameters()).device
    recorded = schedule.cuda_graphs and device.type == "cuda"
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=torch.tensor(schedule.rate, device=device) if recorded else schedule.rate,
        weight_decay=WEIGHT_DECAY,
        capturable=recorded,
    )
    logits = _runner(model, schedule.mixed_precision)

    def step(inputs: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(logits(inputs), labels)
        loss.backward()
        if schedule.clip:
            nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        return loss.detach()

    return optimizer, Replayed(step) if recorded else step


def _runner(model: nn.Module, precision: str) -> Callable[[Tensor], Tensor]:
    """Return the function from inputs, wherever they are, to logits in float32."""
    device = next(model.parameters()).device
    return lambda inputs: run_in(precision, device, lambda: logits_of(model(inputs.to(device))))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate; a tensor stays where it is, as recorded steps read it there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def score(model: nn.Module, data: Data, batch: int, mixed_precision: str = "no") -> float:
    """Return the score on the test data; the model stays as it is.

    It is nan if the statistics of BatchNorm are not finite: the model diverged.

    Args:
        model: Emits logits.
        data: Some of its training batches are for BatchNorm's statistics.
        batch: Inputs in each of them.
        mixed_precision: As in `Schedule`; statistics are measured in the model's own precision.
    """
    return _scores(model, dataclasses.replace(data, others=()), batch, mixed_precision)[0]


@torch.no_grad()
def _scores(model: nn.Module, data: Data, batch: int, mixed_precision: str) -> list[float]:
    """Return the score on each of the test data, with the same statistics."""
    undo = Snapshot(model, model.buffers())
    try:
        if batch_norms(model):
            draws = [make_generator(0, "recalibration", n) for n in range(RECALIBRATION)]
            try:
                recalibrate_statistics(model, [data.train.batch(batch, d)[0] for d in draws])
            except InputError:  # of what it trains on: its statistics are not finite
                return [math.nan] * len(data.tests)
        model.eval()
        return [task.score(_runner(model, mixed_precision), data.scored) for task in data.tests]
    finally:
        undo.restore()


def logits_of(output: Any) -> Any:
    """Return the logits of a model's output: transformers' models emit them among other things."""
    return getattr(output, "logits", output)


def reach(losses: Sequence[float], goal: float, window: int) -> int | None:
    """Return after how many steps the mean loss of the last `window` steps is at most `goal`.

    None if that never happens.
    """
    for step in range(window, len(losses) + 1):
        if sum(losses[step - window : step]) / window <= goal:
            return step
    return None


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation over seeds; 0 for a single seed.

    Both are nan if a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
