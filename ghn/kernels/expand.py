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

from ghn.kernels.recipes import Dense, LowRank, Recipe, Tiled

__all__ = [
    "bound",
    "entries",
    "entry",
    "expand",
    "expand_out",
    "is_finite",
    "mean_square",
    "scaled",
]


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
def expand_out(recipe: Recipe, out: Tensor) -> None:
    """Write the tensor that a recipe describes into `out`, casting to its dtype; no gradient.

    Args:
        recipe: A recipe without batch axes.
        out: Storage of the layout's shape, any strides.
    """
    if isinstance(recipe, LowRank) and (product := _view_of_product(recipe, out)) is not None:
        torch.mm(recipe.left, recipe.right, out=product)
    else:
        out.copy_(expand(recipe))


def _view_of_product(recipe: LowRank, out: Tensor) -> Tensor | None:
    """Return the view of `out` that a product of the factors is, if there is one of their type."""
    if out.dtype != recipe.left.dtype or out.device != recipe.left.device or 0 in out.shape:
        return None
    if recipe.folds[0] > 1:  # rows of the product lie K elements apart
        return None
    matrix = recipe.layout.from_storage(out)
    product = matrix.reshape(matrix.shape[0], -1)
    return product if product.data_ptr() == out.data_ptr() else None


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


def entries(recipe: Recipe) -> list[Recipe]:
    """Return the recipe of each entry of the first batch axis.

    Gradients of all entries meet in one stacked tensor; those of single `entry` calls would each
    fill a tensor of the whole stack's size.
    """
    tensors = {
        field.name: value.unbind()
        for field in dataclasses.fields(recipe)
        if isinstance(value := getattr(recipe, field.name), Tensor)
    }
    rows = zip(*tensors.values(), strict=True)
    return [dataclasses.replace(recipe, **dict(zip(tensors, row, strict=True))) for row in rows]


def entry(recipe: Recipe, index: int) -> Recipe:
    """Return the recipe of one entry of the first batch axis."""
    tensors: dict[str, Any] = {
        field.name: value[index]
        for field in dataclasses.fields(recipe)
        if isinstance(value := getattr(recipe, field.name), Tensor)
    }
    return dataclasses.replace(recipe, **tensors)


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
