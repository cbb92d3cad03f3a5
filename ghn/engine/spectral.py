"""Spectral norms are fitted to the weights that were written.

A spectral norm divides a weight by its largest singular value, which it estimates with two vectors
that it keeps in buffers and improves by one step of the power method in each pass of training. In
evaluation they stay; with the vectors of another weight the estimate can be any number below the
right one, and the layer as many times too loud.

Source: Miyato et al. 2018 (arXiv 1802.05957, algorithm 1); the steps are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm

__all__ = ["fit_spectral_norms", "spectral_vectors"]

STEPS = 15  # as many as PyTorch takes for a new layer
_Norm = cast(Any, parametrizations)._SpectralNorm


def spectral_vectors(model: nn.Module) -> list[Tensor]:
    """Return the buffers of all spectral norms that have values."""
    vectors = [vector for _, norm, _ in _norms(model) for vector in norm]
    return [vector for vector in vectors if not vector.is_meta]


@torch.no_grad()
def fit_spectral_norms(model: nn.Module, written: Collection[Tensor]) -> None:
    """Fit the vectors of spectral norms to their weights, in place.

    Args:
        model: With values.
        written: Parameters that have new values; norms of others stay.
    """
    new = {id(parameter) for parameter in written}
    for weights, _, step in _norms(model):
        if any(id(weight) in new for weight in weights):
            for _ in range(STEPS):
                step()


def _norms(
    model: nn.Module,
) -> Iterator[tuple[list[nn.Parameter], list[Tensor], Callable[[], None]]]:
    """Yield the parameters under each spectral norm, its vectors, and its step."""
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            for norm in module:
                if isinstance(norm, _Norm):
                    yield list(module.parameters()), list(norm.buffers()), _stepper(module, norm)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                vectors = [getattr(module, f"{hook.name}_{end}") for end in "uv"]
                yield [getattr(module, f"{hook.name}_orig")], vectors, _hook_stepper(module, hook)


def _stepper(weight: nn.Module, norm: nn.Module) -> Callable[[], None]:
    def step() -> None:
        training, norm.training = norm.training, True
        try:
            weight()
        finally:
            norm.training = training

    return step


def _hook_stepper(module: nn.Module, hook: SpectralNorm) -> Callable[[], None]:
    def step() -> None:
        hook.compute_weight(module, do_power_iteration=True)

    return step
