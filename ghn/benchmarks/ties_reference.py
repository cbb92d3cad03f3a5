"""The groups of torch-pruning, permuted: what `ghn bench ties` is compared with.

torch-pruning lists, for each group of layers that must be pruned together, which index of each
layer belongs to which channel of the group's root. The same lists say how to permute.

Source: Fang et al. 2023 (DepGraph, arXiv 2301.12900); the package torch-pruning, which is not a
dependency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghn.rng import make_generator

__all__ = ["permute_groups"]

_VECTORS = ("weight", "bias", "running_mean", "running_var")


def permute_groups(model: nn.Module, inputs: Sequence[Any], seed: int) -> dict[str, Tensor]:
    """Permute all groups that torch-pruning finds, but for the classifier's outputs.

    Args:
        model: A timm model, in evaluation mode.
        inputs: Its arguments.
        seed: Of the permutations.

    Returns:
        For each weight by name, which of its output channels took part.

    Raises:
        ImportError: If torch-pruning is not installed.
    """
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=tuple(inputs))
    names = {id(module): name for name, module in model.named_modules()}
    generator = make_generator(seed, "groups")
    took_part: dict[str, Tensor] = {}
    heads: Any = model.get_classifier()  # type: ignore[operator]  # timm's models have it
    ignored = list(heads) if isinstance(heads, (tuple, list)) else [heads]
    kinds = [nn.modules.conv._ConvNd, nn.Linear]
    for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=kinds):
        order = _order(group, generator)
        for item in group:
            _permute(item, order, graph.is_out_channel_pruning_fn(item.dep.handler))
            layer = item.dep.target.module
            if graph.is_out_channel_pruning_fn(item.dep.handler) and hasattr(layer, "weight"):
                name = f"{names.get(id(layer), '')}.weight"
                mask = took_part.setdefault(name, torch.zeros(len(layer.weight)).bool())
                mask[torch.tensor(item.idxs)] = True
    return took_part


def _order(group: Any, generator: torch.Generator) -> Tensor:
    """Draw a permutation of a group's channels, among those that occur in the same layers."""
    counts = torch.zeros(len(group), len(group[0].idxs), dtype=torch.long)
    for row, item in zip(counts, group, strict=True):
        for root in item.root_idxs:
            row[root] += 1
    _, kinds = counts.unique(dim=1, return_inverse=True)
    order = torch.arange(len(kinds))
    for kind in kinds.unique():
        alike = (kinds == kind).nonzero().flatten()
        order[alike] = alike[torch.randperm(len(alike), generator=generator)]
    return order


@torch.no_grad()
def _permute(item: Any, order: Tensor, out: bool) -> None:
    """Permute the axes that one item of a group names."""
    layer = item.dep.target.module
    if isinstance(layer, nn.Parameter):
        _reorder(layer, item.dep.target.pruning_dim, item, order)
    elif isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        _reorder(layer.weight, 0 if out else 1, item, order)
        if out and layer.bias is not None:
            _reorder(layer.bias, 0, item, order)
    else:
        for name in _VECTORS:
            tensor = getattr(layer, name, None)
            if isinstance(tensor, Tensor):
                _reorder(tensor, tensor.ndim - 1, item, order)


def _reorder(tensor: Tensor, axis: int, item: Any, order: Tensor) -> None:
    """Move index lists of channels: those of channel `order[c]` go to the places of channel c."""
    lists: dict[int, list[int]] = {}
    for index, root in zip(item.idxs, item.root_idxs, strict=True):
        lists.setdefault(root, []).append(index)
    places = torch.arange(tensor.shape[axis])
    for channel, source in enumerate(order.tolist()):
        if channel in lists:
            places[lists[channel]] = torch.tensor(lists[source])
    tensor.copy_(tensor.index_select(axis, places))
