"""Fused projections: into how many equal blocks of channels a layer's output is cut.

A projection to queries, keys and values at once is one weight of three, which are told by the
offsets at which later calls read its output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ghn.graphs.values import storage_of

__all__ = ["Sections"]

MAX_SECTIONS = 8


class Sections:
    """Where the outputs of layers are read, by the storage that they lie in."""

    def __init__(self) -> None:
        self._read: dict[int, tuple[int, Tensor, set[int]]] = {}

    def begin(self, node: int, output: Tensor) -> None:
        """Take an output for one of a layer, or a copy of it, whose readers are to be noted."""
        self._read[storage_of(output)] = (node, output, set())

    def read(self, tensor: Tensor, nodes: tuple[int, ...]) -> None:
        """Note that a call reads a tensor that nodes wrote."""
        known = self._read.get(storage_of(tensor))
        if known is not None and nodes == (known[0],):
            known[2].add(int(tensor.storage_offset()))

    def copied(self, source: Tensor, copy: Tensor, nodes: tuple[int, ...]) -> None:
        """Note a rearranged copy: it is cut where the layer's output would be."""
        known = self._read.get(storage_of(source))
        if known is not None and nodes == (known[0],):
            self.begin(known[0], copy)

    def counts(self, channels: Sequence[int], merged: Mapping[int, int]) -> dict[int, int]:
        """Return the number of sections of each layer whose output is cut into equal ones.

        Args:
            channels: Output channels of each node.
            merged: Nodes that another one stands for.
        """
        found: dict[int, int] = {}
        for node, tensor, offsets in self._read.values():
            node = merged.get(node, node)
            found[node] = max(found.get(node, 1), _count(tensor, offsets, channels[node]))
        return found


def _count(tensor: Tensor, offsets: set[int], channels: int) -> int:
    """Number of equal channel blocks at whose starts a layer's output is read, else 1."""
    if not tensor.ndim:
        return 1
    axis = 1 if tensor.ndim == 4 else tensor.ndim - 1
    stride = tensor.stride(axis)
    if channels and tensor.shape[axis] == channels and stride:
        starts, size = {(o // stride) % channels for o in offsets}, channels
    else:  # a copy with the blocks moved to the front
        starts, size = offsets, tensor.numel() if tensor.shape[0] == len(offsets) else 0
    for count in range(min(len(starts), MAX_SECTIONS), 1, -1):
        if size and size % count == 0 and all(j * size // count in starts for j in range(count)):
            return count
    return 1
