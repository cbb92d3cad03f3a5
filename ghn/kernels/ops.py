"""Two operators that expand many recipes at once: `ghn::expand` and `ghn::expand_out`.

`ghn::expand` is functional: it has gradients of any order, works under `torch.func`, `vmap` and
`torch.compile`, and keeps nothing but the factors for its backward pass. `ghn::expand_out` writes
into given storage and has no gradient; the two are apart because an operator that writes into its
arguments cannot have one. `ghn.kernels.dispatch` chooses what runs.

The gradient of W = A B is bilinear like W itself, so its own gradient needs no further operator.

Shape letters used in this file:
    *b: batch axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ghn.errors import ConfigError, ShapeError
from ghn.kernels.dispatch import backend_for
from ghn.kernels.plan import decode, encode, of_items
from ghn.kernels.recipes import Dense, LowRank, Recipe, Tiled
from ghn.kernels.reference import updated

__all__ = ["Precision", "Update", "expand_all", "expand_all_out"]

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
        outs = _expand(tensors, plan, dtype, precision)
        for index, out in zip(places, outs, strict=True):
            results[index] = out
    return [result for result in results if result is not None]


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
        _expand_out(
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
            tensor = recipe.left if isinstance(recipe, LowRank) else recipe.block
            found.setdefault(tensor.device, []).append(index)
    return list(found.values())


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
        if isinstance(recipe, LowRank):
            lead = torch.broadcast_shapes(recipe.left.shape[:-2], recipe.right.shape[:-2])
        elif isinstance(recipe, Tiled):
            lead = recipe.block.shape[:-3]
        else:
            lead = recipe.values.shape[: recipe.values.ndim - len(recipe.layout.shape)]
        shape = (*lead, *recipe.layout.shape)
        if not shape == tuple(out.shape) == tuple(base.shape):
            raise ShapeError(
                f"a recipe of shape {shape} needs a target and a base of that shape, got "
                f"{tuple(out.shape)} and {tuple(base.shape)}"
            )


@torch.library.custom_op("ghn::expand", mutates_args=())
def _expand(
    tensors: Sequence[Tensor], plan: str, dtype: torch.dtype | None, precision: str
) -> list[Tensor]:
    return backend_for(tensors).expand(decode(plan), tensors, dtype, precision)


@_expand.register_fake
def _(
    tensors: Sequence[Tensor], plan: str, dtype: torch.dtype | None, precision: str
) -> list[Tensor]:
    items = decode(plan)
    return [
        own[0].new_empty((*item.lead(own), *item.layout.shape), dtype=dtype)
        for item, own in zip(items, of_items(items, tensors), strict=True)
    ]


@torch.library.custom_op("ghn::expand_backward", mutates_args=())
def _backward(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], plan: str, precision: str
) -> list[Tensor]:
    return backend_for(tensors).backward(decode(plan), tensors, grads, precision)


@_backward.register_fake
def _(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], plan: str, precision: str
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in tensors]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    tensors, ctx.plan, ctx.dtype, ctx.precision = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Return gradients of factors and blocks; tensors that nobody used cost nothing."""
    items = decode(ctx.plan)
    owned = of_items(items, ctx.saved_tensors)
    used = [i for i, grad in enumerate(grads) if grad is not None]
    words = ctx.plan.split(";")
    found: list[Tensor] = []
    if used:
        found = _backward(
            [grads[i] for i in used],
            [tensor for i in used for tensor in owned[i]],
            ";".join([words[i] for i in used]),
            ctx.precision,
        )
    remaining = iter(found)
    result = [
        None if grad is None else next(remaining)
        for grad, own in zip(grads, owned, strict=True)
        for _ in own
    ]
    return result, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grads, tensors, ctx.plan, ctx.precision = inputs
    ctx.count = len(grads)
    ctx.save_for_backward(*grads, *tensors)


def _gradient_of_gradient(ctx: Any, cotangents: Sequence[Tensor]) -> tuple[Any, ...]:
    """Differentiate (G B^T, A^T G) once more.

    With cotangents (S, T) of the two: with respect to G it is S B + A T, with respect to (A, B) the
    backward operator itself at (S, T): (G T^T, S^T G). A block's gradient is linear in G alone.
    """
    items = decode(ctx.plan)
    grads, tensors = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
    first: list[Tensor] = []
    second: list[Tensor] = []
    for item, own, other in zip(
        items, of_items(items, tensors), of_items(items, cotangents), strict=True
    ):
        first.extend([other[0], own[1]] if item.low_rank else other)
        second.extend([own[0], other[1]] if item.low_rank else [torch.zeros_like(other[0])])
    for_grads = [
        (one + two).to(grad.dtype)
        for one, two, grad in zip(
            _expand(first, ctx.plan, None, ctx.precision),
            _expand(second, ctx.plan, None, ctx.precision),
            grads,
            strict=True,
        )
    ]
    found = _backward(grads, list(cotangents), ctx.plan, ctx.precision)
    for_tensors: list[Tensor] = []
    for item, own in zip(items, of_items(items, found), strict=True):
        for_tensors.extend(own if item.low_rank else [torch.zeros_like(own[0])])
    return for_grads, for_tensors, None, None


_expand.register_autograd(_gradient, setup_context=_save)
_backward.register_autograd(_gradient_of_gradient, setup_context=_save_backward)


@_expand.register_vmap
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    tensors: Sequence[Tensor],
    plan: str,
    dtype: torch.dtype | None,
    precision: str,
) -> tuple[list[Tensor], list[int]]:
    outs = _expand(_in_front(tensors, in_dims[0], info.batch_size), plan, dtype, precision)
    return outs, [0] * len(outs)


@_backward.register_vmap
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    grads: Sequence[Tensor],
    tensors: Sequence[Tensor],
    plan: str,
    precision: str,
) -> tuple[list[Tensor], list[int]]:
    grads = _in_front(grads, in_dims[0], info.batch_size)
    found = _backward(grads, _in_front(tensors, in_dims[1], info.batch_size), plan, precision)
    return found, [0] * len(found)


def _in_front(tensors: Sequence[Tensor], dims: Any, size: int) -> list[Tensor]:
    """Move each tensor's batch axis to the front; tensors without one get one without copies."""
    dims = dims if dims is not None else [None] * len(tensors)
    return [
        tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]


@torch.library.custom_op("ghn::expand_out", mutates_args={"outs"})
def _expand_out(
    tensors: Sequence[Tensor],
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    plan: str,
    scales: Sequence[float],
    update: str,
    precision: str,
) -> None:
    """Write into `outs`; an empty list of bases means that they are the bases."""
    backend = backend_for(tensors)
    backend.expand_out(decode(plan), tensors, outs, bases or outs, scales, update, precision)


@_expand_out.register_fake
def _(
    tensors: Sequence[Tensor],
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    plan: str,
    scales: Sequence[float],
    update: str,
    precision: str,
) -> None:
    return None
