"""What the Triton kernels share: the table's fields as constants, and an element's offset.

This module imports Triton: only the kernels and `ghn.kernels.triton_backend` import it.
"""

# No `from __future__ import annotations` in files with kernels: the interpreter compares the
# annotations themselves, not their names, with constexpr.
import triton
import triton.language as tl

from ghn.kernels.geometry import FIELDS, Field

__all__ = ["place"]

WIDTH = tl.constexpr(FIELDS)
X = tl.constexpr(int(Field.X))
Y = tl.constexpr(int(Field.Y))
OUT = tl.constexpr(int(Field.OUT))
BASE = tl.constexpr(int(Field.BASE))
M = tl.constexpr(int(Field.M))
N = tl.constexpr(int(Field.N))
TILES_M = tl.constexpr(int(Field.TILES_M))
TILES_N = tl.constexpr(int(Field.TILES_N))
ROW_SIZES = tl.constexpr(int(Field.ROW_SIZES))
ROW_STRIDES = tl.constexpr(int(Field.ROW_STRIDES))
COL_SIZES = tl.constexpr(int(Field.COL_SIZES))
COL_STRIDES = tl.constexpr(int(Field.COL_STRIDES))
BASE_ROW_STRIDES = tl.constexpr(int(Field.BASE_ROW_STRIDES))
BASE_COL_STRIDES = tl.constexpr(int(Field.BASE_COL_STRIDES))
RANK = tl.constexpr(int(Field.RANK))
X_ROW = tl.constexpr(int(Field.X_ROW))
X_RANK = tl.constexpr(int(Field.X_RANK))
Y_ROW = tl.constexpr(int(Field.Y_ROW))
Y_RANK = tl.constexpr(int(Field.Y_RANK))
D_CHUNK = tl.constexpr(int(Field.D_CHUNK))
CHUNK = tl.constexpr(int(Field.CHUNK))
ROW_KERNEL = tl.constexpr(int(Field.ROW_KERNEL))
ROW_PERIOD = tl.constexpr(int(Field.ROW_PERIOD))
X_M = tl.constexpr(int(Field.X_M))
X_MK = tl.constexpr(int(Field.X_MK))
COL_KERNEL = tl.constexpr(int(Field.COL_KERNEL))
COL_PERIOD = tl.constexpr(int(Field.COL_PERIOD))
X_N = tl.constexpr(int(Field.X_N))
X_NK = tl.constexpr(int(Field.X_NK))
T_CHUNK = tl.constexpr(int(Field.T_CHUNK))
T_CHUNK_STRIDE = tl.constexpr(int(Field.T_CHUNK_STRIDE))


@triton.jit
def place(
    index: tl.tensor, sizes: tl.tensor, strides: tl.tensor, digits: tl.constexpr
) -> tl.tensor:
    """Return the offsets of rows or columns: the sum of their digits times strides."""
    if digits == 1:
        offset = index.to(tl.int64) * tl.load(strides + 2)
    else:
        size = tl.load(sizes + 1).to(tl.int32)
        offset = (index % size).to(tl.int64) * tl.load(strides + 2)
        index = index // size
        if digits == 2:
            offset += index.to(tl.int64) * tl.load(strides + 1)
        else:
            size = tl.load(sizes).to(tl.int32)
            offset += (index % size).to(tl.int64) * tl.load(strides + 1)
            offset += (index // size).to(tl.int64) * tl.load(strides)
    return offset
