"""Training of a family: one random size at each step.

The loss is the task's, the divergence from the full network's outputs, the distance from its
weights at full size, and the norms of what is emitted, each with its weight.

Source: Yang et al. 2024 (NeuMeta, arXiv 2410.11878): random sizes, weighted reconstruction,
unsquared norms, an average of the trained numbers. Distillation and warming up are ours.

Shape letters used in this file:
    b: inputs. k: classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.errors import InputError
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.descend import descend, write_values
from ghn.methods.neumeta.structures import Structure
from ghn.rng import make_generator, preserve_global_state

if TYPE_CHECKING:
    from ghn.methods.neumeta.family import Family

__all__ = [
    "Divergence",
    "Fitted",
    "Loss",
    "Progress",
    "class_divergence",
    "fit",
    "reconstruction",
]

Loss = Callable[[Any, Any], Tensor]
Divergence = Callable[[Any, Any, float], Tensor]
"""Of outputs, those of the full network, and a temperature."""
Progress = Callable[[int, int, str], None]


@dataclasses.dataclass
class Fitted:
    """What training gave.

    Attributes:
        losses: Loss of each step, those of warming up first.
        distance: Mean squared distance from the full network's weights at full size at the end, as
            a share of their variance.
    """

    losses: list[float]
    distance: float


def class_divergence(outputs: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return the mean divergence of softened classes, which lie along the second axis.

    Source: Hinton et al. 2015 (arXiv 1503.02531).
    """
    target = (target / temperature).log_softmax(1)
    outputs = (outputs / temperature).log_softmax(1)
    apart = (target.exp() * (target - outputs)).sum(1).mean()
    return temperature**2 * apart


def fit(
    family: Family,
    batches: Iterable[Any],
    *,
    loss: Loss = F.cross_entropy,
    divergence: Divergence = class_divergence,
    progress: Progress = lambda done, total, text: None,
) -> Fitted:
    """Train a family.

    Args:
        family: What is trained, by its own settings.
        batches: Pairs (inputs, labels); gone through as often as there are steps.
        loss: The task's, of outputs and labels.
        divergence: How far outputs are from those of the full network; by default, of classes.
        progress: Called with steps done, steps in all, and a text.

    Raises:
        InputError: If there is no batch, or one is no pair.
        PredictionError: If the loss is not finite; the family is as it was.
    """
    before = [p.detach().clone() for p in family.trained()]
    with preserve_global_state():
        torch.default_generator.manual_seed(family.config.seed)
        family.ghn.train()
        try:
            losses = _train(family, batches, (loss, divergence), progress)
        except BaseException:
            write_values(family.trained(), before)
            raise
        finally:
            family.ghn.eval()
    full = family.structures.at(family.structures.full)
    with torch.no_grad():
        return Fitted(losses, reconstruction(family, full, weighted=False).item())


def _train(
    family: Family, batches: Iterable[Any], losses_of: tuple[Loss, Divergence], progress: Progress
) -> list[float]:
    """Warm up, then train; each with an optimiser of its own, since their gradients differ."""
    config, structures = family.config, family.structures
    sizes, stream = random_sizes(family), endless(batches)
    family.calibration = _some_inputs(family, batches)
    total = config.warm + config.steps

    def tell(done: int, value: float) -> None:
        progress(done, total, f"loss {value:.3f}")

    def distance() -> Tensor:
        return reconstruction(family, structures.at(next(sizes)), weighted=False)

    def objective() -> Tensor:
        return _loss(family, structures.at(next(sizes)), next(stream), *losses_of)

    stored = {*family.base.values()}
    groups = [
        {"params": [p for p in family.trained() if p not in stored], "lr": config.rate},
        {"params": [p for p in family.trained() if p in stored], "lr": config.base_rate},
    ]
    losses = descend(groups, config, config.warm, distance, tell)
    return losses + descend(
        groups, config, config.steps, objective, lambda n, value: tell(config.warm + n, value)
    )


def _loss(
    family: Family, structure: Structure, batch: Any, loss: Loss, divergence: Divergence
) -> Tensor:
    config = family.config
    inputs, labels = checked(batch, family.device)
    emitted = family.emit(structure)
    outputs = family.run(structure, inputs, emitted)
    total = task_loss(config, family.model, outputs, (inputs, labels), loss, divergence)
    if config.reconstruction:
        full = family.structures.at(family.structures.full)
        total = total + config.reconstruction * reconstruction(family, full)
    if config.magnitude:
        total = total + config.magnitude * sum(t.norm() for t in emitted.values())
    return total


def checked(batch: Any, device: torch.device) -> tuple[Any, Any]:
    """Return inputs and labels of a batch on a device.

    Raises:
        InputError: If it is no pair.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise InputError(f"a batch must be (inputs, labels), got {type(batch).__name__}")
    return batch[0].to(device), batch[1].to(device)


def task_loss(
    config: FamilyConfig,
    teacher: nn.Module,
    outputs: Any,
    batch: tuple[Any, Any],
    loss: Loss,
    divergence: Divergence,
) -> Tensor:
    """Return the task's loss and the divergence from the full network's outputs."""
    inputs, labels = batch
    total = config.task * loss(outputs, labels)
    if config.distillation:
        with torch.no_grad():
            target = teacher(inputs)
        total = total + config.distillation * divergence(outputs, target, config.temperature)
    return total


def reconstruction(family: Family, structure: Structure, weighted: bool = True) -> Tensor:
    """Return the distance from the full network's resampled weights, as a share of their variance.

    Args:
        family: What emits.
        structure: The size at which to compare.
        weighted: Whether large weights count for more, in proportion to their size.

    Source:
        The weights are those of NeuMeta; dividing by the variance is ours.
    """
    total = torch.zeros((), device=family.device)
    emitted = family.emit(structure)
    for name, values in emitted.items():
        target = family.resampled(structure, name)
        apart = (values - target).square()
        if weighted:
            size = target.abs()
            apart = apart * size / size.mean().clamp_min(1e-12)
        total = total + apart.mean() / target.var(unbiased=False).clamp_min(1e-12)
    return total / len(emitted)


def random_sizes(family: Family) -> Iterator[dict[str, int]]:
    """Yield random sizes of the trained range: one share for all groups, a depth for each run."""
    config = family.config
    generator = make_generator(config.seed, "sizes")
    while True:
        place = int(torch.randint(config.widths, (), generator=generator))
        share = config.low + (config.high - config.low) * place / max(config.widths - 1, 1)
        depths = {
            name: int(torch.randint(few, many + 1, (), generator=generator))
            for name, (few, many) in config.depths.items()
        }
        yield family.sizes(share, depths)


def endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise InputError("a family needs at least one batch (inputs, labels), got none")


def _some_inputs(family: Family, batches: Iterable[Any]) -> Tensor | None:
    """Return inputs to measure statistics with, from the first batches."""
    wanted = family.config.calibration
    found: list[Tensor] = []
    for batch in batches if wanted else ():
        if not isinstance(batch[0], Tensor):
            return None
        found.append(batch[0].to(family.device))
        if sum(map(len, found)) >= wanted:
            break
    return torch.cat(found)[:wanted] if found else None
