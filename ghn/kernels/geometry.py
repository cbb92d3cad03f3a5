"""Where the elements of a matrix lie in tensors of any strides: the rows of the kernels' tables.

A recipe's matrix has rows (o, u) and columns (i, v), where the kernel's elements (u, v) are folded
into both. Each side is a number in mixed radix: its digits are axes of the stored tensor, joined
where they are contiguous, and an element's offset is the sum of digit times stride. Three digits a
side are enough for every usual layout; anything else is left to the reference.

The side whose innermost stride is smaller becomes the columns, because neighbouring threads of a
kernel own neighbouring columns. So the sides are rows and columns of the *oriented* matrix, M and N
of them, and X and Y are the factors that belong to them: W[m, n] = sum_r X[m, r] Y[n, r].

Shape letters used in this file:
    M, N: rows and columns of the oriented matrix. r: rank. K: kernel size of the matrix form.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Sequence

from ghn.kernels.recipes import COL_AXES, KERNEL_AXES, ROW_AXES, Layout

__all__ = ["DIGITS", "Field", "Geometry", "Side", "geometry_of", "row_of"]

DIGITS = 3
FIELDS = 32


class Field(enum.IntEnum):
    """Meaning of the int64 numbers that a table holds for each tensor; strides are in elements.

    Offsets count from the base pointer of their kind. A side takes the sizes of its last two
    digits and the strides of three.
    """

    X, Y, OUT, BASE = 0, 1, 2, 3
    M, N = 4, 5
    TILES_N = 6
    TILES_M = 7
    ROW_SIZES, ROW_STRIDES = 8, 10
    COL_SIZES, COL_STRIDES = 13, 15
    BASE_ROW_STRIDES, BASE_COL_STRIDES = 18, 21
    # Low-rank forward.
    RANK, X_ROW, X_RANK, Y_ROW, Y_RANK = 24, 25, 26, 27, 28
    # Low-rank backward: destination, chunk of the sum.
    D_CHUNK, CHUNK = 29, 30
    # Tiled: how often a kernel's elements follow each other, period, strides of block and kernel.
    ROW_KERNEL, ROW_PERIOD, X_M, X_MK = 24, 25, 26, 27
    COL_KERNEL, COL_PERIOD, X_N, X_NK = 28, 29, 30, 31
    # Tiled backward: chunks take the place of a residual's strides.
    T_CHUNK, T_CHUNK_STRIDE = 18, 19


Digit = tuple[int, tuple[int, ...]]
"""A size, and a stride in each stored tensor."""


@dataclasses.dataclass(frozen=True)
class Side:
    """The digits of rows or columns, outermost first.

    Attributes:
        digits: At most `DIGITS` of them, none of size 1 but where all are.
    """

    digits: tuple[Digit, ...]

    @property
    def size(self) -> int:
        """Number of rows or columns."""
        return math.prod(size for size, _ in self.digits)

    @property
    def inner(self) -> float:
        """Stride of the innermost digit in the first tensor; infinite for a single element."""
        size, strides = self.digits[-1]
        return strides[0] if size > 1 else math.inf

    def sizes(self) -> list[int]:
        """Sizes of the last two digits; those that are missing on the left have size 1."""
        sizes = [size for size, _ in self.digits[1 - DIGITS :]]
        return [1] * (DIGITS - 1 - len(sizes)) + sizes

    def strides(self, tensor: int) -> list[int]:
        """Strides of all digits in one of the tensors, aligned to the right."""
        strides = [strides[tensor] for _, strides in self.digits]
        return [0] * (DIGITS - len(strides)) + strides


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Both sides of a matrix, and whether they changed places.

    Attributes:
        rows, cols: The oriented sides; offsets grow slowest along rows.
        swapped: Whether `rows` are the columns of the recipe's matrix.
    """

    rows: Side
    cols: Side
    swapped: bool

    @property
    def digits(self) -> int:
        """Most digits of a side."""
        return max(len(self.rows.digits), len(self.cols.digits))

    @property
    def vector(self) -> int:
        """What divides the number of columns and every stride of rows; 1 if columns have gaps."""
        if len(self.cols.digits) > 1 or any(s != 1 for s in self.cols.digits[0][1]):
            return 1
        return math.gcd(self.cols.size, *(s for _, own in self.rows.digits for s in own))


@functools.lru_cache(maxsize=16384)
def geometry_of(
    layout: Layout, folded: int, strides: tuple[tuple[int, ...], ...]
) -> Geometry | None:
    """Return the sides of a stored tensor, or None where they cannot be told in three digits.

    Args:
        layout: Of the stored tensor.
        folded: Number p of kernel elements that are folded into rows.
        strides: Of each tensor with this layout: the stored one, and maybe its base.
    """

    def axes(letters: str) -> list[Digit]:
        found = [i for i in layout.order if layout.axes[i] in letters]
        return [(layout.shape[i], tuple(s[i] for s in strides)) for i in found]

    one: Digit = (1, (0,) * len(strides))
    kernel = _split(_joined(axes(KERNEL_AXES)), folded)
    if kernel is None:
        return None
    rows = Side(tuple(_joined(axes(ROW_AXES) + kernel[0]) or [one]))
    cols = Side(tuple(_joined(axes(COL_AXES) + kernel[1]) or [one]))
    if max(len(rows.digits), len(cols.digits)) > DIGITS:
        return None
    swapped = rows.inner < cols.inner
    return Geometry(cols, rows, True) if swapped else Geometry(rows, cols, False)


def _joined(digits: Sequence[Digit]) -> list[Digit]:
    """Join neighbours that are one digit in every tensor, and leave out those of size 1."""
    result: list[Digit] = []
    for size, strides in digits:
        if size == 1:
            continue
        if result and all(
            outer == size * inner for outer, inner in zip(result[-1][1], strides, strict=True)
        ):
            result[-1] = (result[-1][0] * size, strides)
        else:
            result.append((size, strides))
    return result


def _split(digits: Sequence[Digit], count: int) -> tuple[list[Digit], list[Digit]] | None:
    """Split digits into the outer ones of `count` values together and the others."""
    outer: list[Digit] = []
    inner: list[Digit] = []
    for size, strides in digits:
        if count % size == 0:
            outer.append((size, strides))
            count //= size
        elif size % count == 0:
            rest = size // count
            outer.append((count, tuple(s * rest for s in strides)))
            inner.append((rest, strides))
            count = 1
        else:
            return None
    return (outer, inner) if count == 1 else None


def row_of(geometry: Geometry, tile: tuple[int, int]) -> list[int]:
    """Return a table row with all that geometry knows; offsets and factors are zero.

    Args:
        geometry: Sides of the stored tensor and maybe of its base.
        tile: Rows and columns of a kernel's tile.
    """
    row = [0] * FIELDS
    rows, cols = geometry.rows, geometry.cols
    row[Field.M], row[Field.N] = rows.size, cols.size
    row[Field.TILES_M] = -(-rows.size // tile[0])
    row[Field.TILES_N] = -(-cols.size // tile[1])
    row[Field.ROW_SIZES : Field.ROW_STRIDES] = rows.sizes()
    row[Field.COL_SIZES : Field.COL_STRIDES] = cols.sizes()
    row[Field.ROW_STRIDES : Field.COL_SIZES] = rows.strides(0)
    row[Field.COL_STRIDES : Field.BASE_ROW_STRIDES] = cols.strides(0)
    if len(rows.digits[0][1]) > 1:
        row[Field.BASE_ROW_STRIDES : Field.BASE_COL_STRIDES] = rows.strides(1)
        row[Field.BASE_COL_STRIDES : Field.RANK] = cols.strides(1)
    return row
