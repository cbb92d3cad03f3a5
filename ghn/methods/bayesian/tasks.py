"""Small data with much left to doubt, and a network for each.

Shape letters used in this file:
    N: examples.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.registry import Registry
from ghn.rng import make_generator

__all__ = ["TASKS", "Split", "Task", "network", "split"]


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of one part.

    Attributes:
        inputs: Numbers of zero mean and unit variance over the training examples.
        targets: Classes, or numbers of zero mean and unit variance.
    """

    inputs: Float[Tensor, "N d"]
    targets: Tensor


@dataclasses.dataclass(frozen=True)
class Task:
    """Data and sizes.

    Attributes:
        summary: What it is, in a line.
        load: Returns inputs and targets of everything.
        sizes: Inputs, hidden units and outputs of the network.
        parts: Examples of `"fit"` and `"val"`; the rest is `"test"`.
    """

    summary: str
    load: Callable[[], tuple[Tensor, Tensor]]
    sizes: tuple[int, int, int]
    parts: tuple[int, int]


TASKS: Registry[Task] = Registry("task")
"""Tasks by name."""


def network(task: str, dropout: float = 0.0) -> nn.Module:
    """Return a new network for a task."""
    size, hidden, outputs = TASKS[task].sizes
    layers = [nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    if dropout:
        layers = [*layers[:2], nn.Dropout(dropout), *layers[2:], nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))


def split(task: str, seed: int) -> dict[str, Split]:
    """Return the parts `"fit"`, `"val"` and `"test"` of a task's data, at random."""
    found = TASKS[task]
    inputs, targets = found.load()
    order = torch.randperm(len(inputs), generator=make_generator(seed, "split", task))
    fit, val = found.parts
    index = dict(zip(("fit", "val", "test"), order.split([fit, val, len(order) - fit - val]),
                     strict=True))  # fmt: skip
    inputs = _standard(inputs, index["fit"])
    if targets.is_floating_point():
        targets = _standard(targets, index["fit"])
    return {part: Split(inputs[rows], targets[rows]) for part, rows in index.items()}


def _standard(values: Tensor, rows: Tensor) -> Tensor:
    """Return values of zero mean and unit variance over some rows."""
    known = values[rows]
    return (values - known.mean(0)) / known.std(0).clamp_min(1e-2)


@functools.cache
def _diabetes() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    return torch.tensor(data.data).float() * 20, torch.tensor(data.target).float()


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data).float() / 16, torch.tensor(data.target)


TASKS.register("diabetes")(
    Task(
        summary="scikit-learn's diabetes, regression: 242 examples to train, 80 to choose by, 120 "
        "to test; 10-32-32-2",
        load=_diabetes,
        sizes=(10, 32, 2),
        parts=(242, 80),
    )
)
TASKS.register("digits")(
    Task(
        summary="scikit-learn's digits, ten classes: 200 examples to train, 100 to choose by, "
        "1,497 to test; 64-32-32-10",
        load=_digits,
        sizes=(64, 32, 10),
        parts=(200, 100),
    )
)
