"""Tables of a grouped launch: one row for each tensor, one entry for each tile.

A kernel gets one base pointer of each kind; the table's offsets lead from it to every tensor, also
to those that were allocated on their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Built", "Table", "batch_shifts"]

Place = tuple[Tensor, int]
"""A tensor, and how many elements after its first one something begins."""


@dataclasses.dataclass(frozen=True)
class Built:
    """What a launch needs, on its device.

    Attributes:
        bases: The tensor at whose first element the offsets of each kind begin.
        rows: int64 `[tensors, fields]`.
        tiles: int32 `[tiles, 2]`: a tensor's row, and the number of a tile in that tensor.
    """

    bases: tuple[Tensor, ...]
    rows: Tensor
    tiles: Tensor


class Table:
    """Collects tensors for one launch.

    Args:
        fields: Where each row keeps the offsets of the places given to `add`.
    """

    def __init__(self, fields: Sequence[int]) -> None:
        self.fields = tuple(fields)
        self.rows: list[Sequence[int]] = []
        self.counts: list[int] = []
        self.places: list[tuple[Place, ...]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: Sequence[int], tiles: int, *places: Place) -> None:
        """Add a tensor: its row without offsets, its number of tiles, a place for each field."""
        self.rows.append(row)
        self.counts.append(tiles)
        self.places.append(places)

    def build(self) -> Built:
        """Compute the offsets and bring everything to the device of the first place."""
        rows = np.array(self.rows, dtype=np.int64)
        bases = tuple(tensor for tensor, _ in self.places[0])
        for column, (field, base) in enumerate(zip(self.fields, bases, strict=True)):
            own = [places[column] for places in self.places]
            pointers = np.array([tensor.data_ptr() for tensor, _ in own], dtype=np.int64)
            shifts = np.array([shift for _, shift in own], dtype=np.int64)
            # Exact: tensors of one type lie at multiples of its size from one another.
            rows[:, field] = (pointers - base.data_ptr()) // base.element_size() + shifts
        device = bases[0].device
        return Built(bases, torch.from_numpy(rows).to(device), _tiles(tuple(self.counts), device))


@functools.lru_cache(maxsize=32)
def _tiles(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the list of all tiles; networks that recur find theirs on the device."""
    sizes = np.array(counts, dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    tensors = np.repeat(np.arange(len(sizes)), sizes)
    inside = np.arange(sizes.sum()) - np.repeat(starts, sizes)
    return torch.from_numpy(np.stack([tensors, inside], 1).astype(np.int32)).to(device)


def batch_shifts(lead: Sequence[int], tensors: Sequence[Tensor]) -> Iterable[tuple[int, ...]]:
    """Return, for each entry of the batch, at which element of each tensor it begins."""
    if not lead:
        return [(0,) * len(tensors)]
    strides = [tensor.stride()[: len(lead)] for tensor in tensors]
    return [
        tuple([sum(i * s for i, s in zip(index, own, strict=True)) for own in strides])
        for index in np.ndindex(*lead)
    ]
