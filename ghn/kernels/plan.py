"""Many recipes as a flat list of tensors and one string, which is what an operator can take.

The string names the kind and the layout of each recipe in turn, such as `"L 64,3,7,7 oikk"`; the
list holds left and right of a low-rank recipe, the block of a tiled one.

Shape letters used in this file:
    *b: batch axes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ghn.errors import ShapeError
from ghn.kernels.recipes import Layout, LowRank, Recipe, Tiled

__all__ = ["Item", "checked", "decode", "encode", "of_items", "shape_of"]


@dataclasses.dataclass(frozen=True)
class Item:
    """What a plan says of one recipe.

    Attributes:
        low_rank: A `LowRank` recipe of two tensors, else a `Tiled` one of one.
        layout: The recipe's layout.
    """

    low_rank: bool
    layout: Layout

    def recipe(self, tensors: Sequence[Tensor]) -> LowRank | Tiled:
        """Put the recipe together again."""
        if self.low_rank:
            return LowRank(tensors[0], tensors[1], self.layout)
        return Tiled(tensors[0], self.layout)

    def lead(self, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        """Return the sizes of the batch axes."""
        return tuple(tensors[0].shape[: -2 if self.low_rank else -3])


def encode(recipes: Sequence[LowRank | Tiled]) -> tuple[list[Tensor], str]:
    """Return the tensors of all recipes, and the plan that says what they are.

    Left and right get one type and the same batch axes; both are views wherever possible.
    """
    tensors: list[Tensor] = []
    words = []
    for recipe in recipes:
        layout = recipe.layout
        sizes = ",".join([str(size) for size in layout.shape])
        if isinstance(recipe, LowRank):
            tensors.extend(_matched(recipe.left, recipe.right))
            words.append(f"L {sizes} {layout.axes}")
        else:
            tensors.append(recipe.block)
            words.append(f"T {sizes} {layout.axes}")
    return tensors, ";".join(words)


def _matched(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    if left.dtype != right.dtype:
        dtype = torch.promote_types(left.dtype, right.dtype)
        left, right = left.to(dtype), right.to(dtype)
    lead = _lead(left, right)
    if not lead == left.shape[:-2] == right.shape[:-2]:
        left = left.expand(*lead, *left.shape[-2:])
        right = right.expand(*lead, *right.shape[-2:])
    return left, right


def _lead(left: Tensor, right: Tensor) -> tuple[int, ...]:
    one, two = left.shape[:-2], right.shape[:-2]
    # `broadcast_shapes` imports sympy, which costs as much as a small network's prediction.
    return tuple(one if one == two else torch.broadcast_shapes(one, two))


def shape_of(recipe: Recipe) -> tuple[int, ...]:
    """Return the shape of the expanded tensor, batch axes first."""
    if isinstance(recipe, LowRank):
        lead = _lead(recipe.left, recipe.right)
    elif isinstance(recipe, Tiled):
        lead = tuple(recipe.block.shape[:-3])
    else:
        return tuple(recipe.values.shape)
    return (*lead, *recipe.layout.shape)


@functools.lru_cache(maxsize=256)
def decode(plan: str) -> tuple[Item, ...]:
    """Read a plan."""
    items = []
    for word in plan.split(";") if plan else ():
        kind, sizes, axes = word.split(" ")
        shape = tuple(int(size) for size in sizes.split(",")) if sizes else ()
        items.append(Item(kind == "L", _layout(shape, axes)))
    return tuple(items)


@functools.lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], axes: str) -> Layout:
    """Share layouts, and with them what they have computed of themselves."""
    return Layout(shape, axes)


def of_items(items: Sequence[Item], tensors: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Split the flat list of tensors into those of each item."""
    result: list[tuple[Tensor, ...]] = []
    position = 0
    for item in items:
        count = 2 if item.low_rank else 1
        result.append(tuple(tensors[position : position + count]))
        position += count
    return result


def checked(plan: str, tensors: Sequence[Tensor]) -> tuple[Item, ...]:
    """Read a plan and check its tensors, because kernels write nonsense where shapes do not fit.

    Raises:
        ShapeError: If factors or a block cannot make a tensor of the layout's shape.
    """
    items = decode(plan)
    for item, own in zip(items, of_items(items, tensors), strict=True):
        layout = item.layout
        if not item.low_rank:
            o, i, kernel = own[0].shape[-3:]
            if kernel != layout.kernel or 0 in (o, i):
                raise ShapeError(
                    f"a block for a tensor of shape {layout.shape} needs shape [o, i, "
                    f"{layout.kernel}] without empty axes, got {tuple(own[0].shape)}"
                )
            continue
        (height, rank), (depth, width) = own[0].shape[-2:], own[1].shape[-2:]
        p, q = height // max(layout.rows, 1), width // max(layout.cols, 1)
        fits = (p * layout.rows, q * layout.cols, p * q) == (height, width, layout.kernel)
        if rank != depth or not (fits or 0 in layout.shape):
            raise ShapeError(
                f"left and right must agree on the rank, and their folds p q = {layout.kernel} "
                f"must make a tensor of shape {layout.shape}; got {tuple(own[0].shape)} and "
                f"{tuple(own[1].shape)}"
            )
    return items
