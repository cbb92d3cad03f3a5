"""The labels of one tensor's axes.

A layout says for each axis of a tensor which channels its positions are. An axis of a parameter has
a vector of labels. Axes that were split from one (`[C]` viewed as `[heads, C / heads]`) share one
array of labels. Axes without labels are *still*: their positions must not move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ghn.graphs.channels.labels import Array

__all__ = ["Block", "Layout", "matched_axes"]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Block:
    """Axes of a tensor and their labels, an array with one axis for each of `dims`, in order."""

    dims: tuple[int, ...]
    labels: Array

    def squeezed(self) -> Block | None:
        """Return the block without axes of size 1, or None if nothing is left that has elements."""
        if not self.labels.size:
            return None
        keep = [k for k, n in enumerate(self.labels.shape) if n > 1]
        if len(keep) == len(self.dims):
            return self
        if not keep:
            return None
        sizes = [self.labels.shape[k] for k in keep]
        return Block(tuple(self.dims[k] for k in keep), self.labels.reshape(sizes))


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """The labels of one tensor.

    Attributes:
        shape: Sizes of the axes.
        blocks: Disjoint groups of axes with labels; axes of size 1 are in none.
        why: For each axis that is still, the reason.
    """

    shape: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    why: tuple[str, ...] = ()

    def of(self, dim: int) -> Block | None:
        """Return the block of an axis, or None if the axis is still."""
        return next((b for b in self.blocks if dim in b.dims), None)

    def axis(self, dim: int) -> int:
        """Return an axis counted from the front."""
        return dim % max(len(self.shape), 1)

    def permute(self, order: Sequence[int]) -> Layout:
        """Return the layout of the tensor with its axes in another order."""
        place = {old: new for new, old in enumerate(order)}
        return Layout(
            tuple(self.shape[d] for d in order),
            tuple(Block(tuple(place[d] for d in b.dims), b.labels) for b in self.blocks),
            tuple(self.why[d] for d in order),
        )

    def take(self, dim: int, positions: Array) -> Layout:
        """Return the layout of some positions along one axis."""
        shape = (*self.shape[:dim], len(positions), *self.shape[dim + 1 :])
        blocks = []
        for block in self.blocks:
            if dim in block.dims:
                at = block.dims.index(dim)
                block = Block(block.dims, block.labels.take(positions, axis=at))
            blocks.append(block.squeezed())
        return Layout(shape, tuple(filter(None, blocks)), self.why)

    def widened(self, ndim: int) -> Layout:
        """Return the layout with axes of size 1 in front, `ndim` axes in all."""
        extra = ndim - len(self.shape)
        if extra == 0:
            return self
        blocks = tuple(Block(tuple(d + extra for d in b.dims), b.labels) for b in self.blocks)
        return Layout((1,) * extra + self.shape, blocks, ("a new axis",) * extra + self.why)


def matched_axes(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Match axes of two shapes with as many elements.

    Returns:
        Pairs of axes of the first and of the second: the smallest runs whose sizes have one
        product, without axes of size 1.
    """
    left = [d for d, n in enumerate(old) if n != 1]
    right = [d for d, n in enumerate(new) if n != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        m, n = old[a[0]], new[b[0]]
        while m != n:
            if m < n:
                a.append(left.pop(0))
                m *= old[a[-1]]
            else:
                b.append(right.pop(0))
                n *= new[b[-1]]
        groups.append((a, b))
    return groups
