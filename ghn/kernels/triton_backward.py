"""Triton kernels for the gradients of factors and blocks; one launch for many tensors.

Every element of a gradient is a sum in a fixed order, so that repetition gives the same bits: a
program owns a tile of a gradient and one chunk of what is summed. Where a sum has several chunks,
they go to float32 scratch of their own and `add_chunks` adds them.

This module imports Triton: only `ghn.kernels.triton_backend` imports it.

Shape letters used in this file:
    m, n: row and column of the oriented matrix (`ghn.kernels.geometry`). r: rank.
"""

import triton
import triton.language as tl

from ghn.kernels import triton_table as field
from ghn.kernels.triton_table import place

__all__ = ["add_chunks", "contract", "contract_tiled"]


@triton.jit(do_not_specialize=["tile_count"])
def contract(
    grad: tl.tensor,
    factor: tl.tensor,
    result: tl.tensor,
    table: tl.tensor,
    tiles: tl.tensor,
    tile_count: tl.tensor,
    transposed: tl.constexpr,
    digits: tl.constexpr,
    precision: tl.constexpr,
    upcast: tl.constexpr,
    block_kept: tl.constexpr,
    block_summed: tl.constexpr,
    block_r: tl.constexpr,
) -> None:
    """Write dX[m, r] = sum_n dW[m, n] Y[n, r], or transposed dY[n, r] = sum_m dW[m, n] X[m, r].

    In the table, X is the result, Y the factor, OUT the gradient dW.

    Args:
        grad: Base pointer of the gradients dW.
        factor: Likewise of the factors.
        result: Likewise of what is written, in float32.
        table: int64 `[tensors, FIELDS]`.
        tiles: int32 `[tile_count, 2]`: a tensor and the number of a tile in it; tiles of the
            rows that are kept are innermost, then those of the rank, then chunks.
        tile_count: Number of tiles, shared out among the programs.
        transposed: Whether columns are kept and rows are summed.
        digits: Most digits of any side.
        precision: Of float32 products: `"ieee"`, `"tf32"` or `"tf32x3"`.
        upcast: Whether both sides are widened to float32 before they are multiplied.
        block_kept: Rows or columns of a tile that are kept.
        block_summed: How many are summed at once.
        block_r: Ranks of a tile.
    """
    for tile in range(tl.program_id(0), tile_count, tl.num_programs(0)):
        tensor = tl.load(tiles + 2 * tile)
        inside = tl.load(tiles + 2 * tile + 1)
        row = table + tensor.to(tl.int64) * field.WIDTH
        size_m = tl.load(row + field.M).to(tl.int32)
        size_n = tl.load(row + field.N).to(tl.int32)
        rank = tl.load(row + field.RANK).to(tl.int32)
        down = tl.load(row + field.TILES_M).to(tl.int32)
        kept = (inside % down) * block_kept + tl.arange(0, block_kept)
        across = tl.cdiv(rank, block_r)
        r = ((inside // down) % across) * block_r + tl.arange(0, block_r)
        chunk = inside // (down * across)
        length = tl.load(row + field.CHUNK).to(tl.int32)
        if transposed:
            kept_size = size_n
            summed_size = size_m
            kept_at = place(kept, row + field.COL_SIZES, row + field.COL_STRIDES, digits)
        else:
            kept_size = size_m
            summed_size = size_n
            kept_at = place(kept, row + field.ROW_SIZES, row + field.ROW_STRIDES, digits)
        kept_at += tl.load(row + field.OUT)
        in_kept = kept < kept_size
        in_rank = r < rank
        factors = factor + (tl.load(row + field.Y) + r * tl.load(row + field.Y_RANK))
        y_row = tl.load(row + field.Y_ROW)
        sums = tl.zeros([block_kept, block_r], tl.float32)
        stop = tl.minimum((chunk + 1) * length, summed_size)
        for start in range(chunk * length, stop, block_summed):
            summed = start + tl.arange(0, block_summed)
            in_summed = summed < stop
            # Neighbouring threads read neighbouring columns, whichever side is kept.
            if transposed:
                at = place(summed, row + field.ROW_SIZES, row + field.ROW_STRIDES, digits)
                mask = in_summed[:, None] & in_kept[None, :]
                left = tl.load(grad + (at[:, None] + kept_at[None, :]), mask=mask, other=0.0)
                left = tl.trans(left)
            else:
                at = place(summed, row + field.COL_SIZES, row + field.COL_STRIDES, digits)
                mask = in_kept[:, None] & in_summed[None, :]
                left = tl.load(grad + (kept_at[:, None] + at[None, :]), mask=mask, other=0.0)
            mask = in_summed[:, None] & in_rank[None, :]
            at_rows = summed.to(tl.int64) * y_row
            right = tl.load(factors[None, :] + at_rows[:, None], mask=mask, other=0.0)
            if upcast:
                left = left.to(tl.float32)
                right = right.to(tl.float32)
            sums = tl.dot(left, right, sums, input_precision=precision)
        to_row = tl.load(row + field.X) + chunk * tl.load(row + field.D_CHUNK)
        to = (to_row + kept.to(tl.int64) * tl.load(row + field.X_ROW))[:, None]
        to += (r * tl.load(row + field.X_RANK))[None, :]
        tl.store(result + to, sums, mask=in_kept[:, None] & in_rank[None, :])


@triton.jit(do_not_specialize=["tile_count"])
def contract_tiled(
    grad: tl.tensor,
    result: tl.tensor,
    table: tl.tensor,
    tiles: tl.tensor,
    tile_count: tl.tensor,
    digits: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
) -> None:
    """Write a block's gradient, the sum over its repetitions; arguments as of `contract`.

    Repetitions are counted column by column, then row by row; a chunk is a range of them. Tiles of
    the block's columns are innermost, then those of its rows, then chunks.
    """
    for tile in range(tl.program_id(0), tile_count, tl.num_programs(0)):
        tensor = tl.load(tiles + 2 * tile)
        inside = tl.load(tiles + 2 * tile + 1)
        row = table + tensor.to(tl.int64) * field.WIDTH
        size_m = tl.load(row + field.M).to(tl.int32)
        size_n = tl.load(row + field.N).to(tl.int32)
        row_kernel = tl.load(row + field.ROW_KERNEL).to(tl.int32)
        col_kernel = tl.load(row + field.COL_KERNEL).to(tl.int32)
        block_rows = row_kernel * tl.load(row + field.ROW_PERIOD).to(tl.int32)
        block_cols = col_kernel * tl.load(row + field.COL_PERIOD).to(tl.int32)
        down = tl.load(row + field.TILES_M).to(tl.int32)
        across = tl.load(row + field.TILES_N).to(tl.int32)
        a = ((inside // across) % down) * block_m + tl.arange(0, block_m)
        b = (inside % across) * block_n + tl.arange(0, block_n)
        chunk = inside // (down * across)
        length = tl.load(row + field.T_CHUNK).to(tl.int32)
        cols = tl.cdiv(size_n, block_cols)
        stop = tl.minimum((chunk + 1) * length, tl.cdiv(size_m, block_rows) * cols)
        grads = grad + tl.load(row + field.OUT)
        sums = tl.zeros([block_m, block_n], tl.float32)
        for repetition in range(chunk * length, stop):
            m = (repetition // cols) * block_rows + a
            n = (repetition % cols) * block_cols + b
            in_m = (a < block_rows) & (m < size_m)
            in_n = (b < block_cols) & (n < size_n)
            at_rows = place(m, row + field.ROW_SIZES, row + field.ROW_STRIDES, digits)
            at_cols = place(n, row + field.COL_SIZES, row + field.COL_STRIDES, digits)
            mask = in_m[:, None] & in_n[None, :]
            at = at_rows[:, None] + at_cols[None, :]
            sums += tl.load(grads + at, mask=mask, other=0.0).to(tl.float32)
        to_rows = (a // row_kernel).to(tl.int64) * tl.load(row + field.X_M)
        to_rows += (a % row_kernel).to(tl.int64) * tl.load(row + field.X_MK)
        to_cols = (b // col_kernel).to(tl.int64) * tl.load(row + field.X_N)
        to_cols += (b % col_kernel).to(tl.int64) * tl.load(row + field.X_NK)
        to = tl.load(row + field.X) + chunk * tl.load(row + field.T_CHUNK_STRIDE)
        to += to_rows[:, None] + to_cols[None, :]
        tl.store(result + to, sums, mask=(a < block_rows)[:, None] & (b < block_cols)[None, :])


@triton.jit(do_not_specialize=["tile_count"])
def add_chunks(
    parts: tl.tensor,
    result: tl.tensor,
    table: tl.tensor,
    tiles: tl.tensor,
    tile_count: tl.tensor,
    block: tl.constexpr,
) -> None:
    """Add the chunks of each gradient in their order, and cast the sum.

    Args:
        parts: float32 scratch.
        result: Base pointer of the gradients, contiguous ones.
        table: int64 `[tensors, 4]`: offsets in `parts` and `result`, elements, chunks.
        tiles: int32 `[tile_count, 2]`: a tensor and the number of a tile in it.
        tile_count: Number of tiles, shared out among the programs.
        block: Elements of a tile.
    """
    for tile in range(tl.program_id(0), tile_count, tl.num_programs(0)):
        row = table + 4 * tl.load(tiles + 2 * tile).to(tl.int64)
        inside = tl.load(tiles + 2 * tile + 1).to(tl.int64)
        size = tl.load(row + 2)
        index = inside * block + tl.arange(0, block)
        mask = index < size
        total = tl.zeros([block], tl.float32)
        for chunk in range(tl.load(row + 3).to(tl.int32)):
            at = tl.load(row) + chunk * size + index
            total += tl.load(parts + at, mask=mask, other=0.0)
        to = result + (tl.load(row + 1) + index)
        tl.store(to, total.to(result.dtype.element_ty), mask=mask)
