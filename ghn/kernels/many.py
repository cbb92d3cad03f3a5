"""Expanding many recipes at once: as new tensors with gradients, or into given storage.

`expand_all` works under autograd, `torch.func` and `torch.compile`, and keeps nothing but the
factors for its backward pass. `expand_all_out` is what writes a prediction into a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ghn.errors import ConfigError, ShapeError
from ghn.kernels.autograd import Expand
from ghn.kernels.expand import entries, expand, updated
from ghn.kernels.ops import expand_op, expand_out_op
from ghn.kernels.plan import encode, shape_of
from ghn.kernels.recipes import Dense, LowRank, Recipe, Tiled

__all__ = ["Precision", "Update", "expand_all", "expand_all_out", "expand_entries"]

LARGE = 2**16  # elements of a tensor that is worth a call of its own
Precision = Literal["ieee", "tf32", "tf32x3"]
Update = Literal["replace", "add", "multiply"]


def expand_all(
    recipes: Sequence[Recipe], *, dtype: torch.dtype | None = None, precision: Precision = "ieee"
) -> list[Tensor]:
    """Return the tensors that recipes describe, differentiable in the recipes' tensors.

    Args:
        recipes: Any number, with or without batch axes, on any devices.
        dtype: Type of the tensors; each recipe's own by default.
        precision: How a GPU multiplies float32 factors: exactly, with TF32, or with three TF32
            products, which is nearly exact. Sums are float32 in any case.

    Returns:
        One tensor for each recipe: a new one, or the values of a `Dense` recipe themselves.
    """
    _check_choice("precision", precision, Precision)
    results: list[Tensor | None] = [None] * len(recipes)
    for index, recipe in enumerate(recipes):
        if isinstance(recipe, Dense):
            results[index] = recipe.values if dtype is None else recipe.values.to(dtype)
    for places in _by_device(recipes):
        tensors, plan = encode(_products(recipes, places))
        # Dynamo knows the operator, but no autograd.Function with forward derivatives.
        if torch.compiler.is_compiling():
            outs = expand_op(tensors, plan, dtype, precision)
        else:
            outs = Expand.apply(plan, dtype, precision, *tensors)
        for index, out in zip(places, outs, strict=True):
            results[index] = out
    return [result for result in results if result is not None]


def expand_entries(stacks: Sequence[Recipe]) -> list[list[Tensor]]:
    """Return the tensors of all entries of each recipe, differentiable in the recipes' tensors.

    On a GPU one launch expands all stacks. On a CPU the entries of a stack of small tensors are
    expanded by one call, and those of large ones by one each: large products gain nothing from
    company, and their gradients need not wait for each other.

    Args:
        stacks: Recipes with one batch axis.
    """
    if all(_device(stack).type == "cpu" for stack in stacks):
        return [_expand_on_cpu(stack) for stack in stacks]
    return [list(tensor.unbind()) for tensor in expand_all(stacks)]


def _expand_on_cpu(stack: Recipe) -> list[Tensor]:
    if math.prod(stack.layout.shape) > LARGE:
        return [expand(one) for one in entries(stack)]
    return list(expand(stack).unbind())


@torch.no_grad()
def expand_all_out(
    recipes: Sequence[Recipe],
    outs: Sequence[Tensor],
    *,
    scales: Sequence[float] | None = None,
    update: Update = "replace",
    bases: Sequence[Tensor] | None = None,
    precision: Precision = "ieee",
) -> None:
    """Write the tensors W that recipes describe into given storage; no gradient.

    Args:
        recipes: Any number, with or without batch axes.
        outs: A tensor of the shape of each, on the device of the recipe; any strides and types, but
            no two elements of one place.
        scales: A number for each, which W is multiplied with; 1 by default.
        update: What is written: W, `"add"`: base + W, or `"multiply"`: base (1 + W).
        bases: The bases, shaped like `outs`; by default what `outs` hold.
        precision: See `expand_all`.

    Raises:
        ShapeError: If a target's or base's shape is not its recipe's, before anything is written.
    """
    _check_choice("precision", precision, Precision)
    _check_choice("update", update, Update)
    scales = [1.0] * len(recipes) if scales is None else scales
    bases = outs if bases is None else bases
    _check_shapes(recipes, outs, bases, scales)
    for recipe, out, base, scale in zip(recipes, outs, bases, scales, strict=True):
        if isinstance(recipe, Dense):
            values = recipe.values if scale == 1.0 else recipe.values * scale
            out.copy_(updated(values, base, update))
    in_place = all(base is out for base, out in zip(bases, outs, strict=True))
    for places in _by_device(recipes):
        tensors, plan = encode(_products(recipes, places))
        expand_out_op(
            tensors,
            [outs[i] for i in places],
            [] if in_place else [bases[i] for i in places],
            plan,
            [float(scales[i]) for i in places],
            update,
            precision,
        )


def _products(recipes: Sequence[Recipe], places: Sequence[int]) -> list[LowRank | Tiled]:
    chosen = [recipes[i] for i in places]
    return [recipe for recipe in chosen if not isinstance(recipe, Dense)]


def _by_device(recipes: Sequence[Recipe]) -> list[list[int]]:
    """Return where the recipes that are not dense stand, for each device."""
    found: dict[torch.device, list[int]] = {}
    for index, recipe in enumerate(recipes):
        if not isinstance(recipe, Dense):
            found.setdefault(_device(recipe), []).append(index)
    return list(found.values())


def _device(recipe: Recipe) -> torch.device:
    tensor = {Dense: "values", LowRank: "left", Tiled: "block"}[type(recipe)]
    device: torch.device = getattr(recipe, tensor).device
    return device


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in choices.__args__:
        raise ConfigError(f"{name} must be one of {', '.join(choices.__args__)}, got {value!r}")


def _check_shapes(
    recipes: Sequence[Recipe],
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    scales: Sequence[float],
) -> None:
    if not len(recipes) == len(outs) == len(bases) == len(scales):
        raise ShapeError(
            f"expand_all_out needs a target, a base and a scale for each recipe, got "
            f"{len(recipes)} recipes, {len(outs)} targets, {len(bases)} bases, {len(scales)} scales"
        )
    for recipe, out, base in zip(recipes, outs, bases, strict=True):
        shape = shape_of(recipe)
        if not shape == tuple(out.shape) == tuple(base.shape):
            raise ShapeError(
                f"a recipe of shape {shape} needs a target and a base of that shape, got "
                f"{tuple(out.shape)} and {tuple(base.shape)}"
            )
