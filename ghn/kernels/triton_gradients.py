"""Host side of the backward kernels: gradients of many factors and blocks in a few launches.

This module imports Triton: only `ghn.kernels.triton_backend` imports it.

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
from ghn.kernels.geometry import Field, Geometry, geometry_of, row_of
from ghn.kernels.plan import Item, of_items
from ghn.kernels.tables import Place, Table, batch_shifts
from ghn.kernels.triton_backward import add_chunks, contract, contract_tiled
from ghn.kernels.triton_launch import INTERPRETED, TYPES, fill_tiled, launch, next_power

__all__ = ["backward"]

CHUNK = 1024  # terms of a sum that one program adds up
REPETITIONS = 64  # of a block, likewise
KEPT = 64  # rows or columns of a tile
BLOCK_TILE = (32, 64)
ELEMENTS = 1024


@dataclasses.dataclass(frozen=True)
class Kind:
    """What sums of one launch have in common.

    Attributes:
        kernel: `"rows"` or `"cols"`: which side of the matrix is kept; or `"tiled"`.
        types: Of the gradient that comes in and of the factor; twice the first if there is none.
        block_r: Ranks of a tile.
    """

    kernel: str
    types: tuple[torch.dtype, torch.dtype]
    block_r: int = 0


@dataclasses.dataclass(frozen=True)
class Sum:
    """One gradient in the making.

    Attributes:
        kind: Its launch.
        row: Its row of the table, without offsets.
        tiles: Number of tiles.
        digits: Digits of the incoming gradient's sides.
        places: Where incoming gradient and factor begin.
        to: Where the gradient belongs.
        elements: Its size.
        chunks: How many sums make it.
    """

    kind: Kind
    row: Sequence[int]
    tiles: int
    digits: int
    places: tuple[Place, ...]
    to: Place
    elements: int
    chunks: int

    @property
    def parts(self) -> int:
        """Elements of scratch it needs: none if a single float32 sum is all."""
        direct = self.chunks == 1 and self.to[0].dtype == torch.float32
        return 0 if direct else self.elements * self.chunks


def backward(
    items: Sequence[Item], tensors: Sequence[Tensor], grads: Sequence[Tensor], precision: str
) -> list[Tensor]:
    """Return the gradient of each factor and block; see `ghn.kernels.dispatch.Backend`."""
    result: list[Tensor] = []
    sums: list[Sum] = []
    for item, own, grad in zip(items, of_items(items, tensors), grads, strict=True):
        skip = len(item.lead(own))
        geometry, grad = _geometry(item, own, grad, skip)
        if geometry is None or not TYPES.issuperset((grad.dtype, own[0].dtype)):
            result.extend(reference.backward([item], own, [grad], precision))
            continue
        empty = torch.zeros if grad.numel() == 0 else torch.empty
        gradients = [empty(t.shape, dtype=t.dtype, device=t.device) for t in own]
        result.extend(gradients)
        if grad.numel() == 0 or own[0].numel() == 0:
            continue
        make = _lowrank if item.low_rank else _tiled
        sums.extend(make(geometry, own, grad, gradients, skip))
    if sums:
        _run(sums, precision)
    return result


def _geometry(
    item: Item, own: Sequence[Tensor], grad: Tensor, skip: int
) -> tuple[Geometry | None, Tensor]:
    """Return the sides of the incoming gradient, copying it if its strides are too intricate."""
    if grad.numel() == 0:
        return geometry_of(item.layout, 1, (grad.stride()[skip:],)), grad
    folded = own[0].shape[skip] // item.layout.rows if item.low_rank else 1
    geometry = geometry_of(item.layout, folded, (grad.stride()[skip:],))
    if geometry is None:
        grad = grad.contiguous()
        geometry = geometry_of(item.layout, folded, (grad.stride()[skip:],))
    return geometry, grad


def _lowrank(
    geometry: Geometry,
    own: Sequence[Tensor],
    grad: Tensor,
    gradients: Sequence[Tensor],
    skip: int,
) -> list[Sum]:
    """Return the sums for both factors of a low-rank recipe."""
    sides = [(own[0], gradients[0]), (own[1].mT, gradients[1].mT)]
    if geometry.swapped:
        sides.reverse()
    rank = own[0].shape[-1]
    types = (grad.dtype, own[0].dtype)
    block_r = min(max(next_power(rank), 16), 256)
    sums = []
    for name, (_, to), (factor, _) in zip(("rows", "cols"), sides, sides[::-1], strict=True):
        kind = Kind(name, types, block_r)
        strides = (to.stride()[-2:], factor.stride()[-2:])
        row, tiles, elements, chunks = _lowrank_row(geometry, kind, rank, strides, CHUNK)
        for at_grad, at_factor, at_to in batch_shifts(grad.shape[:skip], (grad, factor, to)):
            places, target = ((grad, at_grad), (factor, at_factor)), (to, at_to)
            sums.append(Sum(kind, row, tiles, geometry.digits, places, target, elements, chunks))
    return sums


@functools.lru_cache(maxsize=16384)
def _lowrank_row(
    geometry: Geometry, kind: Kind, rank: int, strides: tuple[tuple[int, ...], ...], chunk: int
) -> tuple[Sequence[int], int, int, int]:
    """Return a row without offsets, its tiles, the gradient's elements and the sum's chunks."""
    kept, summed = geometry.rows.size, geometry.cols.size
    if kind.kernel == "cols":
        kept, summed = summed, kept
    row = row_of(geometry, (KEPT, KEPT))
    row[Field.TILES_M] = -(-kept // KEPT)
    row[Field.RANK] = rank
    (row[Field.X_ROW], row[Field.X_RANK]), (row[Field.Y_ROW], row[Field.Y_RANK]) = strides
    row[Field.CHUNK], row[Field.D_CHUNK] = chunk, kept * rank
    chunks = -(-summed // chunk)
    tiles = row[Field.TILES_M] * -(-rank // kind.block_r) * chunks
    return tuple(row), tiles, kept * rank, chunks


def _tiled(
    geometry: Geometry,
    own: Sequence[Tensor],
    grad: Tensor,
    gradients: Sequence[Tensor],
    skip: int,
) -> list[Sum]:
    """Return the sums for the block of a tiled recipe."""
    to = gradients[0]
    row = row_of(geometry, BLOCK_TILE)
    fill_tiled(row, ((tuple(to.shape[skip:]), to.stride()[skip:]),), geometry.swapped)
    block_rows = row[Field.ROW_KERNEL] * row[Field.ROW_PERIOD]
    block_cols = row[Field.COL_KERNEL] * row[Field.COL_PERIOD]
    repetitions = -(-row[Field.M] // block_rows) * -(-row[Field.N] // block_cols)
    elements = block_rows * block_cols
    chunks = -(-repetitions // REPETITIONS)
    row[Field.TILES_M] = -(-block_rows // BLOCK_TILE[0])
    row[Field.TILES_N] = -(-block_cols // BLOCK_TILE[1])
    row[Field.T_CHUNK], row[Field.T_CHUNK_STRIDE] = REPETITIONS, elements
    kind = Kind("tiled", (grad.dtype, grad.dtype))
    tiles = row[Field.TILES_M] * row[Field.TILES_N] * chunks
    return [
        Sum(kind, row, tiles, geometry.digits, ((grad, at_grad),), (to, at_to), elements, chunks)
        for at_grad, at_to in batch_shifts(grad.shape[:skip], (grad, to))
    ]


def _run(sums: Sequence[Sum], precision: str) -> None:
    """Give every sum its place, launch the kernels, and add up what has several chunks."""
    device = sums[0].to[0].device
    scratch = torch.empty(sum(s.parts for s in sums), dtype=torch.float32, device=device)
    jobs: dict[Kind, tuple[Table, list[Sum]]] = {}
    added: dict[torch.dtype, Table] = {}
    used = 0
    for one in sums:
        place = one.to
        if one.parts:
            place = (scratch, used)
            used += one.parts
            table = added.setdefault(one.to[0].dtype, Table((0, 1)))
            row = [0, 0, one.elements, one.chunks]
            table.add(row, -(-one.elements // ELEMENTS), place, one.to)
        fields = (Field.X, Field.OUT, Field.Y)[: 1 + len(one.places)]
        table, members = jobs.setdefault(one.kind, (Table(fields), []))
        table.add(one.row, one.tiles, place, *one.places)
        members.append(one)
    for kind, (table, members) in jobs.items():
        _launch(kind, table, max(m.digits for m in members), precision)
    for table in added.values():
        built = table.build()
        arguments = (*built.bases, built.rows, built.tiles, built.tiles.shape[0])
        launch(add_chunks, arguments, {"block": ELEMENTS})


def summed_at_once(kind: Kind) -> int:
    """Return how many terms are loaded at once: three stages have to fit in 99 KiB.

    That is what the smallest of the GPUs that these kernels run on lends to a program; splitting
    float32 in three TF32 parts takes a share of its own.
    """
    width = max(dtype.itemsize for dtype in kind.types)
    return next(n for n in (64, 32, 16) if n == 16 or 3 * (KEPT + kind.block_r) * n * width <= 75e3)


def _launch(kind: Kind, table: Table, digits: int, precision: str) -> None:
    built = table.build()
    shared = (built.rows, built.tiles, built.tiles.shape[0])
    if kind.kernel == "tiled":
        to, grad = built.bases
        options: dict[str, Any] = {"block_m": BLOCK_TILE[0], "block_n": BLOCK_TILE[1]}
        launch(contract_tiled, (grad, to, *shared), {"digits": digits, **options})
        return
    to, grad, factor = built.bases
    options = {
        "transposed": kind.kernel == "cols",
        "digits": digits,
        "precision": precision,
        "upcast": INTERPRETED or kind.types[0] != kind.types[1],
        "block_kept": KEPT,
        "block_summed": summed_at_once(kind),
        "block_r": kind.block_r,
        "num_warps": 8 if kind.block_r > 64 else 4,
    }
    launch(contract, (grad, factor, to, *shared), options)
