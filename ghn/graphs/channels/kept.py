"""What is left of every tensor of a forward pass when some channels are dropped."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ghn.errors import ShapeError
from ghn.graphs.channels.labels import Array
from ghn.graphs.channels.layouts import Block, Layout
from ghn.graphs.channels.propagate import Propagation

__all__ = ["Kept"]

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
