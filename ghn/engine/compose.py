"""Recipes become parameters: checked while nothing is written, then written all at once.

Everything that can fail comes before the first write. What is left, the writes themselves, needs
no memory that was not tried before and cannot be interrupted by Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ghn.engine.guards import check_apart, check_writable
from ghn.errors import PredictionError
from ghn.kernels import Recipe, expand_all_out, expand_out, is_finite

__all__ = ["check_recipes", "check_targets", "hold_interrupts", "new_tensor", "write"]


def check_recipes(
    recipes: Mapping[str, Recipe],
    parameters: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
) -> None:
    """Check shapes, and that every element will be finite where it is written.

    Args:
        recipes: What to write, by parameter name.
        parameters: The tensors that it is meant for; only shapes and types are read.
        dtype: Type of what is written; each parameter's own by default.

    Raises:
        PredictionError: If a recipe has another shape than its parameter, or an element might be
            NaN, infinite or too large for the type; the message names the parameter.
    """
    for name, recipe in recipes.items():
        parameter = parameters[name]
        if tuple(recipe.layout.shape) != tuple(parameter.shape):
            raise PredictionError(
                f"parameter {name!r} has shape {tuple(parameter.shape)}, the hypernetwork emitted "
                f"{tuple(recipe.layout.shape)}; the model was left as it was"
            )
        target = dtype or parameter.dtype
        if not is_finite(recipe, target):
            raise PredictionError(
                f"the prediction for parameter {name!r} is not finite in {target}; the model was "
                "left as it was. Leave it out with generate=, or use another checkpoint"
            )


def check_targets(recipes: Mapping[str, Recipe], parameters: Mapping[str, Tensor]) -> None:
    """Make sure that `write` will succeed.

    Raises:
        UnsupportedModelError: If a parameter cannot be written in place, or its memory is also that
            of one that is not to be written.
        MemoryError: If there is no room for the largest temporary.
    """
    for name in recipes:
        check_writable(name, parameters[name])
    check_apart(recipes, parameters)
    _try_memory(recipes, parameters)


def write(recipes: Mapping[str, Recipe], parameters: Mapping[str, Tensor]) -> None:
    """Write all recipes into their parameters' storage; Parameter objects stay the same.

    Args:
        recipes: Checked by `check_recipes`.
        parameters: Tensors of any strides, types and devices; checked by `check_targets`.
    """
    targets = [parameters[name].data for name in recipes]
    moved = [_on_device(r, t.device) for r, t in zip(recipes.values(), targets, strict=True)]
    expand_all_out(moved, targets)


def new_tensor(recipe: Recipe, like: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Expand a recipe into a new tensor with the shape and strides of `like`."""
    out = torch.empty_like(like, device=device, dtype=dtype, requires_grad=False)
    expand_out(_on_device(recipe, device), out)
    return out


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, then deliver it to the handler it was meant for.

    Python delivers Ctrl-C to the main thread only, so that other threads need no protection.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    if not in_main_thread or handler is None:  # None: not ours to replace, set by an embedding C
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def _on_device(recipe: Recipe, device: torch.device) -> Recipe:
    """Move a recipe's small tensors, so that the product is made where it is needed."""
    moved: dict[str, Any] = {
        field.name: value.to(device)
        for field in dataclasses.fields(recipe)
        if isinstance(value := getattr(recipe, field.name), Tensor) and value.device != device
    }
    return dataclasses.replace(recipe, **moved) if moved else recipe


def _try_memory(recipes: Mapping[str, Recipe], parameters: Mapping[str, Tensor]) -> None:
    """Allocate, on each device, twice the largest tensor: the most that one expansion needs.

    CUDA's allocator keeps the blocks for the writes; on a CPU untouched memory costs nothing.
    """
    largest: dict[torch.device, int] = {}
    for name in recipes:
        tensor = parameters[name]
        largest[tensor.device] = max(largest.get(tensor.device, 0), tensor.numel())
    for device, elements in largest.items():
        try:
            trial = [torch.empty(elements, device=device) for _ in range(2)]
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            raise MemoryError(
                f"no room on {device} for two temporary tensors of {elements:,} elements; the "
                "model was left as it was"
            ) from error
        del trial
