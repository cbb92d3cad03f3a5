"""What is left of every tensor of a forward pass when some channels are dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from ghn.errors import ShapeError
from ghn.graphs.channels.labels import Array
from ghn.graphs.channels.layout import Block, Layout
from ghn.graphs.channels.propagate import Propagation

__all__ = ["Kept", "side_by_side"]

Mask = npt.NDArray[np.bool_]


class Kept:
    """Positions and sizes that are left when channels are dropped.

    Args:
        run: Labels carried through the whole forward pass.
        dropped: Atoms of the channels that go.
    """

    def __init__(self, run: Propagation, dropped: Iterable[int]) -> None:
        self._run = run
        self._dropped = np.zeros(run.labels.count, bool)
        self._dropped[list(dropped)] = True

    def mask(self, labels: Array) -> Mask:
        """Return which positions stay: those that no dropped channel is part of."""
        mask = np.ones(labels.size, bool)
        for where, leaves in self._run.labels.leaves(labels.ravel()):
            mask[where] = ~self._dropped[leaves].any(1)
        return mask.reshape(labels.shape)

    def positions(self, layout: Layout, dim: int) -> Array:
        """Return the positions along an axis with labels of its own that stay."""
        block = layout.of(dim)
        if block is None:
            return np.arange(layout.shape[dim])
        return np.flatnonzero(self.mask(block.labels))

    def shape(self, layout: Layout) -> tuple[int, ...]:
        """Return the shape that is left of a tensor.

        Raises:
            ShapeError: If what is left is no box: axes that are folded out of one have to lose as
                many channels everywhere.
        """
        shape = list(layout.shape)
        for block in layout.blocks:
            for dim, size in zip(block.dims, self._sizes(block), strict=True):
                shape[dim] = size
        return tuple(shape)

    def _sizes(self, block: Block) -> list[int]:
        mask = self.mask(block.labels)
        sizes = []
        for axis in range(mask.ndim):
            counts = mask.any(tuple(range(axis + 1, mask.ndim))).sum(axis)
            counts = np.unique(counts[counts > 0])
            if len(counts) > 1:
                raise ShapeError(
                    f"an axis of {mask.shape[axis]} channels that is folded out of another would "
                    f"have {counts.min()} in one part and {counts.max()} in another; sets of "
                    "channels that lie side by side in one tensor need the same width"
                )
            sizes.append(int(counts[0]) if len(counts) else 0)
        return sizes

    def rows(self, layout: Layout, dim: int, rows: int) -> int:
        """Return how many of an axis's equal parts are left."""
        return int(self.mask(self._run.ops.vector(layout, dim)).reshape(rows, -1).any(1).sum())


def side_by_side(run: Propagation, atoms: Mapping[str, Array]) -> list[tuple[str, ...]]:
    """Return the names of sets that share an axis of a folded tensor, part by part.

    Such an axis has one size: a fused projection viewed as `[3, heads, d]` has as many places `d`
    in its queries as in its values. A set that lies along all parts changes them alike, as heads do
    where the projection is viewed as `[3, heads * d]`, and so is free.

    Args:
        run: Labels carried through the whole forward pass.
        atoms: For each set, by name, its atoms.
    """
    names = list(atoms)
    set_of = np.full(run.labels.count, -1)
    for number, name in enumerate(names):
        set_of[atoms[name]] = number
    groups: set[tuple[str, ...]] = set()
    for labels in _folded(run):
        for axis in range(labels.ndim):
            fibres = np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])
            for _, leaves in run.labels.leaves(fibres.ravel()):
                if len(leaves) == fibres.size:
                    groups.add(tuple(names[n] for n in _along(leaves, fibres.shape, set_of)))
    return sorted(group for group in groups if len(group) > 1)


def _folded(run: Propagation) -> Iterator[Array]:
    """Yield each array of labels of more than one axis once."""
    seen: set[int] = set()
    for _, results in run.steps:
        for block in (b for layout in results for b in layout.blocks):
            if block.labels.ndim > 1 and id(block.labels) not in seen:
                seen.add(id(block.labels))
                yield block.labels


def _along(leaves: Array, shape: tuple[int, ...], set_of: Array) -> list[int]:
    """Return the sets that lie along some rows of a table of labels, but not along all."""
    rows: list[set[int]] = [set() for _ in range(shape[0])]
    for leaf in leaves.T:
        table = leaf.reshape(shape)
        for row in np.flatnonzero((table != table[:, :1]).any(1)):
            rows[row] |= set(set_of[table[row]].tolist())
    return sorted(rows[0].union(*rows) - rows[0].intersection(*rows) - {-1})
