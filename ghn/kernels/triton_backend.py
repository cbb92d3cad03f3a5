"""The Triton backend: lists of recipes become tables, and tables become launches.

All low-rank recipes of a call are expanded by one launch, all tiled ones by another; a large call
is split once more, into tensors whose rows can be stored several elements at a time and others.
What the kernels do not know, float64 and storage that needs more than three digits a side, goes to
the reference.

This module imports Triton: only `ghn.kernels.dispatch` imports it, once it is chosen.

Shape letters used in this file:
    M, N: rows and columns of the oriented matrix (`ghn.kernels.geometry`). r: rank.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ghn.kernels import reference
from ghn.kernels.geometry import Field, geometry_of, row_of
from ghn.kernels.plan import Item, of_items
from ghn.kernels.tables import Built, Table, batch_shifts
from ghn.kernels.triton_forward import expand_lowrank, expand_tiled
from ghn.kernels.triton_gradients import backward
from ghn.kernels.triton_launch import (
    INTERPRETED,
    TYPES,
    Shapes,
    fill_lowrank,
    fill_tiled,
    launch,
    next_power,
)

__all__ = ["backward", "expand", "expand_out", "forward_tables", "run_forward", "tile_of"]

SPLIT = 1 << 22  # elements from which a call is worth a second launch
PLACES = (Field.X, Field.Y, Field.OUT, Field.BASE)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What tensors of one launch have in common.

    Attributes:
        low_rank: Which kernel expands them.
        tile: Rows and columns of a tile.
        types: Of factors or blocks, targets, and bases.
        vector: Elements stored at once.
    """

    low_rank: bool
    tile: tuple[int, int]
    types: tuple[torch.dtype, torch.dtype, torch.dtype]
    vector: int


@dataclasses.dataclass
class Job:
    """One launch in the making."""

    table: Table
    scales: list[float]
    digits: int = 1
    rank: int = 1


def expand(
    items: Sequence[Item], tensors: Sequence[Tensor], dtype: torch.dtype | None, precision: str
) -> list[Tensor]:
    """Return the tensor of each item, contiguous; see `ghn.kernels.dispatch.Backend`."""
    outs = [
        own[0].new_empty((*item.lead(own), *item.layout.shape), dtype=dtype or own[0].dtype)
        for item, own in zip(items, of_items(items, tensors), strict=True)
    ]
    expand_out(items, tensors, outs, outs, [1.0] * len(items), "replace", precision)
    return outs


def expand_out(
    items: Sequence[Item],
    tensors: Sequence[Tensor],
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    scales: Sequence[float],
    update: str,
    precision: str,
) -> None:
    """Write the tensor of each item; see `ghn.kernels.dispatch.Backend`."""
    owned = of_items(items, tensors)
    jobs, left_over = forward_tables(items, owned, outs, bases, scales, update)
    for kind, job in jobs.items():
        run_forward(kind, job, job.table.build(), update, precision)
    for index in left_over:
        one = slice(index, index + 1)
        reference.expand_out(
            items[one], owned[index], outs[one], bases[one], scales[one], update, precision
        )


def forward_tables(
    items: Sequence[Item],
    owned: Sequence[tuple[Tensor, ...]],
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    scales: Sequence[float],
    update: str,
) -> tuple[dict[Kind, Job], list[int]]:
    """Sort tensors into launches.

    Returns:
        The launches, and the places in `items` of what is left to the reference.
    """
    jobs: dict[Kind, Job] = {}
    left_over = []
    split = sum(out.numel() for out in outs) >= SPLIT
    for index, (item, own, out, base) in enumerate(zip(items, owned, outs, bases, strict=True)):
        if out.numel() == 0:
            continue
        base = out if update == "replace" else base
        types = (own[0].dtype, out.dtype, base.dtype)
        lead = item.lead(own)
        skip = len(lead)
        strides = (out.stride()[skip:], base.stride()[skip:])
        shapes = tuple((t.shape[skip:], t.stride()[skip:]) for t in own)
        tile = tile_of(own[0].shape[-1] if item.low_rank else 1, types[0])
        form = _form(item, shapes, strides, tile)
        if form is None or not TYPES.issuperset(types):
            left_over.append(index)
            continue
        vector = _vector(form, out, base, skip) if split else 1
        kind = Kind(item.low_rank, tile, types, vector)
        job = jobs.setdefault(kind, Job(Table(PLACES), []))
        job.digits = max(job.digits, form.digits)
        job.rank = max(job.rank, form.rank)
        x, y = (own[-1], own[0]) if form.swapped else (own[0], own[-1])
        for at_x, at_y, at_out, at_base in batch_shifts(lead, (x, y, out, base)):
            places = ((x, at_x), (y, at_y), (out, at_out), (base, at_base))
            job.table.add(form.row, form.tiles, *places)
            job.scales.append(scales[index])
    return jobs, left_over


def tile_of(rank: int, dtype: torch.dtype) -> tuple[int, int]:
    """Return rows and columns of a tile.

    A small rank leaves a kernel bound by what it writes. At a large one, factors are read again for
    each tile, which is why tiles grow.
    """
    return (128, 256) if rank > 64 and dtype.itemsize == 2 else (64, 128)


@dataclasses.dataclass(frozen=True)
class Form:
    """A table's row without offsets.

    Attributes:
        row: The numbers.
        tiles: Number of tiles.
        digits, rank: What the kernel must be able to do.
        swapped: Whether X belongs to the columns of the recipe's matrix.
        vector: Most elements that may be stored at once, as far as strides and sizes tell.
    """

    row: tuple[int, ...]
    tiles: int
    digits: int
    rank: int
    swapped: bool
    vector: int


@functools.lru_cache(maxsize=16384)
def _form(
    item: Item, shapes: Shapes, strides: tuple[tuple[int, ...], ...], tile: tuple[int, int]
) -> Form | None:
    """Return the row of a tensor; networks that recur find theirs computed."""
    folded = shapes[0][0][0] // item.layout.rows if item.low_rank else 1
    geometry = geometry_of(item.layout, folded, strides)
    if geometry is None:
        return None
    row = row_of(geometry, tile)
    fill = fill_lowrank if item.low_rank else fill_tiled
    fill(row, shapes, geometry.swapped)
    return Form(
        row=tuple(row),
        tiles=row[Field.TILES_M] * row[Field.TILES_N],
        digits=geometry.digits,
        rank=row[Field.RANK] if item.low_rank else 1,
        swapped=item.low_rank and geometry.swapped,
        vector=geometry.vector,
    )


def _vector(form: Form, out: Tensor, base: Tensor, lead: int) -> int:
    """Return how many elements can be stored at once: 16 bytes of them, or 1."""
    width = 16 // out.element_size()
    aligned = all(
        t.data_ptr() % 16 == 0 and not any(s % width for s in t.stride()[:lead])
        for t in (out, base)
    )
    return width if aligned and form.vector % width == 0 else 1


def run_forward(kind: Kind, job: Job, built: Built, update: str, precision: str) -> None:
    """Launch one kernel over all tiles of a table."""
    x, y, out, base = built.bases
    scales = torch.tensor(job.scales, dtype=torch.float32).to(x.device)
    shared = (out, base, scales, built.rows, built.tiles, built.tiles.shape[0])
    options: dict[str, Any] = {
        "update": update,
        "digits": job.digits,
        "vector": kind.vector,
        "block_m": kind.tile[0],
        "block_n": kind.tile[1],
        "num_warps": 8,
    }
    if kind.low_rank:
        block_r = min(max(next_power(job.rank), 16), 64 if x.element_size() == 2 else 32)
        options |= {"precision": precision, "upcast": INTERPRETED, "block_r": block_r}
        launch(expand_lowrank, (x, y, *shared), options)
    else:
        launch(expand_tiled, (x, *shared), options)
