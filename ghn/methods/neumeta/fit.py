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
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.device import run_in
from ghn.methods.neumeta.batches import Batches
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

CONSTANT = 1e-6  # variance over mean square, below which a tensor is constant

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
        batches: Pairs (inputs, labels) of tensors; gone through again until there were enough. An
            iterator, which can be gone through once, must be long enough.
        loss: The task's, of outputs and labels.
        divergence: How far outputs are from those of the full network; by default, of classes.
        progress: Called with steps done, steps in all, and a text.

    Raises:
        InputError: If there is no batch or not enough of them, one is no pair of tensors, the full
            network does not take the inputs or the loss its outputs, or data are not finite.
        PredictionError: If the loss is not finite.

    On any error the family is as it was.
    """

    def score(outputs: Any, labels: Tensor) -> Tensor:
        apart = divergence(outputs, outputs, family.config.temperature)
        return loss(outputs, labels) + family.config.distillation * apart

    before = [p.detach().clone() for p in family.trained()]
    with preserve_global_state():
        torch.default_generator.manual_seed(family.config.seed)
        stream = Batches(batches, family.device, family.config.calibration)
        stream.try_on(family.model, score)
        family.ghn.train()
        try:
            with stream.explaining():
                # A fixed base without a field has nothing to train, and statistics to measure.
                both = (loss, divergence)
                losses = _train(family, stream, both, progress) if family.trained() else []
        except BaseException:
            write_values(family.trained(), before)
            raise
        finally:
            family.ghn.eval()
    family.calibration = stream.kept
    full = family.structures.at(family.structures.full)
    with torch.no_grad():
        return Fitted(losses, reconstruction(family, full, weighted=False).item())


def _train(
    family: Family, stream: Batches, losses_of: tuple[Loss, Divergence], progress: Progress
) -> list[float]:
    """Warm up, then train; each with an optimiser of its own, since their gradients differ."""
    config, structures = family.config, family.structures
    sizes = random_sizes(family)
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
    family: Family,
    structure: Structure,
    batch: tuple[Tensor, Tensor],
    loss: Loss,
    divergence: Divergence,
) -> Tensor:
    config = family.config
    emitted = family.emit(structure)
    outputs = family.run(structure, batch[0], emitted)
    total = task_loss(config, family.model, outputs, batch, loss, divergence)
    if config.reconstruction:
        full = family.structures.at(family.structures.full)
        total = total + config.reconstruction * reconstruction(family, full)
    if config.magnitude:
        total = total + config.magnitude * sum(t.norm() for t in emitted.values())
    return total


def task_loss(
    config: FamilyConfig,
    teacher: nn.Module,
    outputs: Any,
    batch: tuple[Tensor, Tensor],
    loss: Loss,
    divergence: Divergence,
) -> Tensor:
    """Return the task's loss and the divergence from the full network's outputs."""
    inputs, labels = batch
    total = config.task * loss(outputs, labels)
    if config.distillation:
        with torch.no_grad():
            target = run_in(config.mixed_precision, inputs.device, partial(teacher, inputs))
        total = total + config.distillation * divergence(outputs, target, config.temperature)
    return total


def reconstruction(family: Family, structure: Structure, weighted: bool = True) -> Tensor:
    """Return the distance from the full network's resampled weights, as a share of their variance.

    Of a tensor that is constant, as a share of its mean square.

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
        total = total + apart.mean() / _spread(target)
    return total / len(emitted)


def _spread(target: Tensor) -> Tensor:
    """Return a tensor's variance; of one that is constant its mean square, or 1 if it is zero.

    A norm that was never trained has gains of 1 and shifts of 0.
    """
    variance, square = target.var(unbiased=False), target.square().mean()
    sized = torch.where(square > 0, square, 1.0)
    return torch.where(variance > CONSTANT * sized, variance, sized)


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
