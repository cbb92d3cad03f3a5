"""Triton kernels that expand all recipes of a network, one launch for each kind of recipe.

Each program walks over tiles of many tensors. A tile names its tensor and its place in it; a table
of int64 numbers (`ghn.kernels.geometry.Field`) says where that tensor and its factors lie, as
offsets from one base pointer of each kind. So no kernel reads a pointer from memory, which Triton's
interpreter cannot do, and one compiled kernel serves every shape.

This module imports Triton: only `ghn.kernels.triton_backend` imports it.

Shape letters used in this file:
    m, n: row and column of the oriented matrix (`ghn.kernels.geometry`). r: rank.
"""

import triton
import triton.language as tl

from ghn.kernels import triton_table as field
from ghn.kernels.triton_table import place

__all__ = ["expand_lowrank", "expand_tiled"]


@triton.jit
def finish(
    values: tl.tensor,
    out: tl.tensor,
    base: tl.tensor,
    scale: tl.tensor,
    row: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    update: tl.constexpr,
    digits: tl.constexpr,
    vector: tl.constexpr,
) -> None:
    """Scale a tile, apply it to its base, cast it and store it.

    With `vector` above 1, the columns of every tensor of the launch are contiguous, and its rows
    begin at multiples of `vector` elements, so that as many are stored at once.
    """
    values = values * scale
    size_n = tl.load(row + field.N).to(tl.int32)
    at_rows = place(m, row + field.ROW_SIZES, row + field.ROW_STRIDES, digits)
    at_rows += tl.load(row + field.OUT)
    if vector > 1:
        size_n = tl.multiple_of(size_n, vector)
        at_rows = tl.multiple_of(at_rows, [vector])
        at_cols = n.to(tl.int64)
    else:
        at_cols = place(n, row + field.COL_SIZES, row + field.COL_STRIDES, digits)
    mask = (m < tl.load(row + field.M))[:, None] & (n < size_n)[None, :]
    if update != "replace":
        base_rows = place(m, row + field.ROW_SIZES, row + field.BASE_ROW_STRIDES, digits)
        base_rows += tl.load(row + field.BASE)
        if vector > 1:
            base_rows = tl.multiple_of(base_rows, [vector])
            base_cols = at_cols
        else:
            base_cols = place(n, row + field.COL_SIZES, row + field.BASE_COL_STRIDES, digits)
        old = tl.load(base + (base_rows[:, None] + base_cols[None, :]), mask=mask, other=0.0)
        old = old.to(tl.float32)
        values = old + values if update == "add" else old * (1.0 + values)
    target = out + (at_rows[:, None] + at_cols[None, :])
    tl.store(target, values.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tile_count"])
def expand_lowrank(
    x: tl.tensor,
    y: tl.tensor,
    out: tl.tensor,
    base: tl.tensor,
    scales: tl.tensor,
    table: tl.tensor,
    tiles: tl.tensor,
    tile_count: tl.tensor,
    update: tl.constexpr,
    digits: tl.constexpr,
    vector: tl.constexpr,
    precision: tl.constexpr,
    upcast: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_r: tl.constexpr,
) -> None:
    """Write W[m, n] = sum_r X[m, r] Y[n, r] of every tensor; sums in float32.

    Args:
        x: Base pointer of the factors X.
        y: Likewise of the factors Y.
        out: Likewise of the targets.
        base: Likewise of what the targets are updated from.
        scales: A float32 factor for each tensor.
        table: int64 `[tensors, FIELDS]`.
        tiles: int32 `[tile_count, 2]`: a tensor and the number of a tile in it.
        tile_count: Number of tiles, shared out among the programs.
        update: `"replace"`, `"add"` (base + W) or `"multiply"` (base (1 + W)).
        digits: Most digits of any side.
        vector: See `finish`.
        precision: Of float32 products: `"ieee"`, `"tf32"` or `"tf32x3"`.
        upcast: Whether factors are widened before they are multiplied, for the interpreter.
        block_m: Rows of a tile.
        block_n: Columns of a tile.
        block_r: Ranks that are multiplied at once.
    """
    for tile in range(tl.program_id(0), tile_count, tl.num_programs(0)):
        tensor = tl.load(tiles + 2 * tile)
        inside = tl.load(tiles + 2 * tile + 1)
        row = table + tensor.to(tl.int64) * field.WIDTH
        across = tl.load(row + field.TILES_N).to(tl.int32)
        m = (inside // across) * block_m + tl.arange(0, block_m)
        n = (inside % across) * block_n + tl.arange(0, block_n)
        in_m = (m < tl.load(row + field.M))[:, None]
        in_n = (n < tl.load(row + field.N))[None, :]
        rank = tl.load(row + field.RANK).to(tl.int32)
        x_rank = tl.load(row + field.X_RANK)
        y_rank = tl.load(row + field.Y_RANK)
        x_rows = x + (tl.load(row + field.X) + m.to(tl.int64) * tl.load(row + field.X_ROW))
        y_rows = y + (tl.load(row + field.Y) + n.to(tl.int64) * tl.load(row + field.Y_ROW))
        sums = tl.zeros([block_m, block_n], tl.float32)
        for start in range(0, rank, block_r):
            r = start + tl.arange(0, block_r)
            left_mask = in_m & (r < rank)[None, :]
            right_mask = (r < rank)[:, None] & in_n
            left = tl.load(x_rows[:, None] + (r * x_rank)[None, :], mask=left_mask, other=0.0)
            right = tl.load(y_rows[None, :] + (r * y_rank)[:, None], mask=right_mask, other=0.0)
            if upcast:
                left = left.to(tl.float32)
                right = right.to(tl.float32)
            sums = tl.dot(left, right, sums, input_precision=precision)
        scale = tl.load(scales + tensor)
        finish(sums, out, base, scale, row, m, n, update, digits, vector)


@triton.jit
def source(
    index: tl.tensor, kernel: tl.tensor, period: tl.tensor, stride: tl.tensor, inner: tl.tensor
) -> tl.tensor:
    """Return the offsets in a block of a tensor's rows or columns, which repeat it."""
    channel = (index // kernel) % period
    return channel.to(tl.int64) * stride + (index % kernel).to(tl.int64) * inner


@triton.jit(do_not_specialize=["tile_count"])
def expand_tiled(
    x: tl.tensor,
    out: tl.tensor,
    base: tl.tensor,
    scales: tl.tensor,
    table: tl.tensor,
    tiles: tl.tensor,
    tile_count: tl.tensor,
    update: tl.constexpr,
    digits: tl.constexpr,
    vector: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
) -> None:
    """Write blocks, repeated and cropped, to every tensor; arguments as of `expand_lowrank`."""
    for tile in range(tl.program_id(0), tile_count, tl.num_programs(0)):
        tensor = tl.load(tiles + 2 * tile)
        inside = tl.load(tiles + 2 * tile + 1)
        row = table + tensor.to(tl.int64) * field.WIDTH
        across = tl.load(row + field.TILES_N).to(tl.int32)
        m = (inside // across) * block_m + tl.arange(0, block_m)
        n = (inside % across) * block_n + tl.arange(0, block_n)
        from_rows = source(
            m,
            tl.load(row + field.ROW_KERNEL).to(tl.int32),
            tl.load(row + field.ROW_PERIOD).to(tl.int32),
            tl.load(row + field.X_M),
            tl.load(row + field.X_MK),
        )
        from_cols = source(
            n,
            tl.load(row + field.COL_KERNEL).to(tl.int32),
            tl.load(row + field.COL_PERIOD).to(tl.int32),
            tl.load(row + field.X_N),
            tl.load(row + field.X_NK),
        )
        blocks = x + (tl.load(row + field.X) + from_rows)
        # Every offset lies inside of the block, also those of rows and columns past the end.
        values = tl.load(blocks[:, None] + from_cols[None, :]).to(tl.float32)
        finish(values, out, base, tl.load(scales + tensor), row, m, n, update, digits, vector)
