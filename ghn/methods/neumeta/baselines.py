"""What families are compared with: slimmable and pruned networks, and networks of one width.

Sources: slimmable networks, Yu et al. 2019 (arXiv 1812.08928), with statistics of BatchNorm
measured for each width (Yu and Huang 2019, arXiv 1903.05134); pruning of tied channels by the norm
of all their weights, Fang et al. 2023 (DepGraph, arXiv 2301.12900).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.device import run_in
from ghn.graphs import channel_ties
from ghn.graphs.isolate import copied
from ghn.graphs.ties import forget_caches, named_tensors, permute_channels
from ghn.methods.neumeta.batches import Batches
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.descend import descend
from ghn.methods.neumeta.family import Family
from ghn.methods.neumeta.fit import Divergence, Loss, class_divergence, task_loss
from ghn.methods.neumeta.structures import Structure
from ghn.rng import preserve_global_state

__all__ = ["Slimmable", "fresh", "strongest_first", "tune"]


class Slimmable(Family):
    """Networks of all widths share the first channels of one; untrained, it is a pruned network.

    Args:
        model: The trained full network.
        config: Settings of training; those of field and base are of no account.
        **further: As for `Family`.
    """

    kind = "slimmable network"

    def __init__(
        self, model: nn.Module, config: FamilyConfig | None = None, **further: Any
    ) -> None:
        config = (config or FamilyConfig()).replace(base="trained", reach=0.0, warm=0)
        super().__init__(model, config, **further)

    def emit(self, structure: Structure) -> dict[str, Tensor]:
        """Return the first channels of the shared weights."""
        return {
            name: first_channels(self.base[old], structure, name)
            for name, old in structure.source.items()
            if old in self.base
        }

    def resampled(self, structure: Structure, name: str) -> Tensor:
        """Return the first channels of a tensor that is not trained."""
        return first_channels(self._tensors[structure.source[name]].detach(), structure, name)


def first_channels(tensor: Tensor, structure: Structure, name: str) -> Tensor:
    """Return what stays of a tensor when the last channels go."""
    for axis, places in enumerate(structure.positions[name]):
        if len(places) < tensor.shape[axis]:
            tensor = tensor.index_select(axis, places.to(tensor.device))
    return tensor


def strongest_first(model: nn.Module, example_inputs: Any = None) -> nn.Module:
    """Return a copy whose channels are in the order of the norms of all their weights."""
    model = copied(model)
    tensors = named_tensors(model)
    for channels in channel_ties(model, example_inputs).sets:
        squares = torch.zeros(channels.size)
        for tied in channels.axes:
            tensor = tensors[tied.name]
            if isinstance(tensor, nn.Parameter):
                index = torch.from_numpy(tied.index)
                slices = tensor.detach().movedim(tied.axis, 0).reshape(tensor.shape[tied.axis], -1)
                squares += slices[index].square().sum((1, 2)).cpu()
        permute_channels(tensors, channels, squares.argsort(descending=True))
    forget_caches(model)
    return model


def fresh(model: nn.Module, generated: Iterable[str], seed: int) -> nn.Module:
    """Return a copy in which the modules that hold generated parameters begin anew.

    What they begin with is drawn on the CPU, so that a seed means the same on every device.
    """
    device = next(model.parameters()).device
    model = copied(model).cpu()
    paths = {name.rpartition(".")[0] for name in generated}
    with preserve_global_state():
        torch.default_generator.manual_seed(seed)
        for path, module in model.named_modules():
            if path in paths and hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return model.to(device)


def tune(
    model: nn.Module,
    generated: Iterable[str],
    batches: Iterable[Any],
    config: FamilyConfig,
    *,
    teacher: nn.Module,
    loss: Loss = F.cross_entropy,
    divergence: Divergence = class_divergence,
) -> nn.Module:
    """Train the generated parameters of a network of one width, in place, as families are trained.

    Args:
        model: The network; its generated BatchNorm modules measure statistics meanwhile.
        generated: Names of the parameters that are trained.
        batches: As for `Family.fit`.
        config: Steps, `base_rate` and losses.
        teacher: The full network.
        loss: The task's.
        divergence: As for `Family.fit`.
    """
    names = set(generated)
    model.eval().requires_grad_(False)
    parameters = [p.requires_grad_() for n, p in model.named_parameters() if n in names]
    paths = {name.rpartition(".")[0] for name in names}
    for path, module in model.named_modules():
        if path in paths:
            module.train()
    stream = Batches(batches, parameters[0].device)

    def objective() -> Tensor:
        inputs, labels = next(stream)
        outputs = run_in(config.mixed_precision, inputs.device, partial(model, inputs))
        return task_loss(config, teacher, outputs, (inputs, labels), loss, divergence)

    groups = [{"params": parameters, "lr": config.base_rate}]
    with stream.explaining():
        descend(groups, config, config.steps, objective)
    return model.eval()
