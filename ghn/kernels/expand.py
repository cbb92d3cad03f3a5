"""What expands recipes to tensors, and what can be known of a tensor without expanding it.

These are the plain-PyTorch references: differentiable, on any device.

Shape letters used in this file:
    *b: batch axes, none or one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ghn.kernels.recipes import Dense, Layout, LowRank, Recipe, Tiled

__all__ = [
    "bound",
    "entries",
    "entry",
    "expand",
    "expand_out",
    "is_finite",
    "mean_square",
    "merged",
    "parted",
    "picked",
    "scaled",
    "updated",
]

SCRATCH = 2**22  # elements


def expand(recipe: Recipe) -> Float[Tensor, "*b ..."]:
    """Return the tensor that a recipe describes, differentiable in the recipe's tensors."""
    layout = recipe.layout
    if isinstance(recipe, Dense):
        return recipe.values
    if isinstance(recipe, Tiled):
        return layout.to_storage(_tile(recipe.block, layout.rows, layout.cols))
    p, q = recipe.folds
    product = recipe.left @ recipe.right
    batch = product.shape[:-2]
    split = product.reshape(*batch, layout.rows, p, layout.cols, q).transpose(-3, -2)
    return layout.to_storage(split.reshape(*batch, layout.rows, layout.cols, p * q))


@torch.no_grad()
def expand_out(
    recipe: Recipe, out: Tensor, *, update: str = "replace", base: Tensor | None = None
) -> None:
    """Write the tensor W that a recipe describes into `out`, casting to its dtype; no gradient.

    Scratch memory is at most `SCRATCH` elements where `out`'s matrix form is a view of it.

    Args:
        recipe: A recipe without batch axes.
        out: Storage of the layout's shape, any strides.
        update: What is written: W, `"add"`: base + W, or `"multiply"`: base (1 + W).
        base: The base, shaped like `out`; by default what `out` holds.
    """
    base = out if base is None else base
    product = _view_of_product(recipe, out) if isinstance(recipe, LowRank) else None
    if isinstance(recipe, Dense):
        out.copy_(updated(recipe.values, base, update))
    elif product is not None and isinstance(recipe, LowRank) and update != "multiply":
        if update == "add" and base is not out:
            out.copy_(base)
        torch.addmm(product, recipe.left, recipe.right, beta=float(update == "add"), out=product)
    else:
        _expand_in_bands(recipe, out, base, update)


def updated(values: Tensor, base: Tensor, update: str) -> Tensor:
    """Return what an update makes of a base: the values, base + values, or base (1 + values)."""
    if update == "add":
        return base + values
    if update == "multiply":
        return base * (1.0 + values)
    return values


def _view_of_product(recipe: LowRank, out: Tensor) -> Tensor | None:
    """Return the view of `out` that a product of the factors is, if there is one of their type."""
    if out.dtype != recipe.left.dtype or out.device != recipe.left.device or 0 in out.shape:
        return None
    if recipe.folds[0] > 1:  # rows of the product lie K elements apart
        return None
    matrix = recipe.layout.from_storage(out)
    product = matrix.reshape(matrix.shape[0], -1)
    return product if _shares_memory(product, out) else None


def _expand_in_bands(recipe: LowRank | Tiled, out: Tensor, base: Tensor, update: str) -> None:
    """Expand a few rows at a time."""
    layout = recipe.layout
    target = layout.from_storage(out)
    if not _shares_memory(target, out):
        out.copy_(updated(expand(recipe), base, update))
        return
    source = layout.from_storage(base)
    height = max(1, SCRATCH // max(1, layout.cols * layout.kernel))
    if isinstance(recipe, Tiled):  # bands start where a block does
        block = recipe.block.shape[0]
        height = block * max(1, height // block)
    for start in range(0, layout.rows, height):
        rows = slice(start, min(start + height, layout.rows))
        target[rows].copy_(updated(_band(recipe, rows), source[rows], update))


def _band(recipe: LowRank | Tiled, rows: slice) -> Float[Tensor, "R C K"]:
    layout = recipe.layout
    part = Layout((rows.stop - rows.start, layout.cols, layout.kernel), "oik")
    if isinstance(recipe, Tiled):
        return expand(Tiled(recipe.block, part))
    p = recipe.folds[0]
    return expand(LowRank(recipe.left[rows.start * p : rows.stop * p], recipe.right, part))


def _shares_memory(view: Tensor, tensor: Tensor) -> bool:
    return view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()


def mean_square(recipe: Recipe) -> Float[Tensor, "*b"]:
    """Return the mean of the squared elements, exactly and without expanding a low-rank product.

    For W = A B the sum of squares is trace((A^T A)(B B^T)), which costs two r x r matrices.
    """
    if isinstance(recipe, Dense):
        lead = recipe.values.ndim - len(recipe.layout.shape)
        return recipe.values.flatten(lead).square().mean(-1)
    if isinstance(recipe, Tiled):
        return _tiled_mean_square(recipe)
    gram_left = recipe.left.transpose(-1, -2) @ recipe.left
    gram_right = recipe.right @ recipe.right.transpose(-1, -2)
    total = (gram_left * gram_right).sum((-1, -2))
    # Rounding can push a vanishing trace below zero.
    return total.clamp_min(0.0) / (recipe.left.shape[-2] * recipe.right.shape[-1])


def scaled(recipe: Recipe, factor: Float[Tensor, "*b"] | float) -> Recipe:
    """Return the recipe of the tensor times a number for each batch entry."""
    name = {Dense: "values", LowRank: "left", Tiled: "block"}[type(recipe)]
    tensor = getattr(recipe, name)
    if isinstance(factor, Tensor):
        factor = factor.reshape(*factor.shape, *[1] * (tensor.ndim - factor.ndim))
    return dataclasses.replace(recipe, **{name: tensor * factor})


def entries(recipe: Recipe, axis: int = 0) -> list[Recipe]:
    """Return the recipe of each entry of a batch axis, by default the first.

    Gradients of all entries meet in one stacked tensor; those of single `entry` calls would each
    fill a tensor of the whole stack's size.
    """
    tensors = {name: value.unbind(axis) for name, value in _tensors(recipe).items()}
    rows = zip(*tensors.values(), strict=True)
    return [dataclasses.replace(recipe, **dict(zip(tensors, row, strict=True))) for row in rows]


def merged(recipe: Recipe) -> Recipe:
    """Return the recipe with its first two batch axes as one."""
    changed: dict[str, Any] = {k: v.flatten(0, 1) for k, v in _tensors(recipe).items()}
    return dataclasses.replace(recipe, **changed)


def parted(recipe: Recipe, count: int) -> Recipe:
    """Return the recipe with its first batch axis as two, of which the first has `count` entries.

    The inverse of `merged`.
    """
    changed: dict[str, Any] = {k: v.unflatten(0, (count, -1)) for k, v in _tensors(recipe).items()}
    return dataclasses.replace(recipe, **changed)


def entry(recipe: Recipe, index: int) -> Recipe:
    """Return the recipe of one entry of the first batch axis."""
    chosen: dict[str, Any] = {k: v[index] for k, v in _tensors(recipe).items()}
    return dataclasses.replace(recipe, **chosen)


def picked(recipe: Recipe, places: list[int], axis: int = 0) -> Recipe:
    """Return the recipe of some entries of a batch axis."""
    chosen: dict[str, Any] = {
        name: value.index_select(axis, torch.tensor(places, device=value.device))
        for name, value in _tensors(recipe).items()
    }
    return dataclasses.replace(recipe, **chosen)


def _tensors(recipe: Recipe) -> dict[str, Tensor]:
    """Return the tensors of a recipe by field."""
    fields = ((field.name, getattr(recipe, field.name)) for field in dataclasses.fields(recipe))
    return {name: value for name, value in fields if isinstance(value, Tensor)}


def bound(recipe: Recipe) -> Float[Tensor, ""]:
    """Return a number that no element of the expanded tensor exceeds in absolute value.

    For a product it is max |A_i| max |B_j| over rows and columns (Cauchy-Schwarz), not finite if
    a factor is not.
    """
    if isinstance(recipe, LowRank):
        rows = torch.linalg.vector_norm(recipe.left, dim=-1)
        cols = torch.linalg.vector_norm(recipe.right, dim=-2)
        return _largest(rows) * _largest(cols)
    return _largest(recipe.values if isinstance(recipe, Dense) else recipe.block)


def is_finite(recipe: Recipe, dtype: torch.dtype) -> bool:
    """Whether every element of the expanded tensor is certain to be finite in `dtype`."""
    return bool(bound(recipe) <= torch.finfo(dtype).max)


def _largest(tensor: Tensor) -> Tensor:
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    return tensor.abs().amax()


def _tile(block: Float[Tensor, "*b o i K"], rows: int, cols: int) -> Float[Tensor, "*b R C K"]:
    o, i = block.shape[-3:-1]
    repeats = (-(-rows // o), -(-cols // i), 1)
    return block.repeat(*[1] * (block.ndim - 3), *repeats)[..., :rows, :cols, :]


def _tiled_mean_square(recipe: Tiled) -> Float[Tensor, "*b"]:
    """Weight each element of the block by how often it appears."""
    o, i = recipe.block.shape[-3:-1]
    rows, cols = recipe.layout.rows, recipe.layout.cols

    def counts(size: int, total: int) -> Tensor:
        index = torch.arange(size, device=recipe.block.device)
        return ((total - index + size - 1) // size).clamp_min(0).to(recipe.block.dtype)

    weights = counts(o, rows)[:, None] * counts(i, cols)
    sums = recipe.block.square().sum(-1) * weights
    return sums.sum((-1, -2)) / (rows * cols * recipe.layout.kernel)
