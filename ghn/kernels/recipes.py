"""Recipes: small descriptions of the tensors that a hypernetwork emits.

A decoder returns recipes instead of tensors, so that magnitudes are set, finiteness is checked and
adapters are exported on small factors, and a weight exists once, where it is needed.

All recipes describe a weight in *matrix form* `[rows, cols, kernel]`: rows are output channels,
cols are input channels, vocabulary rows or positions, kernel is the product of the kernel's sizes.
A `Layout` says how matrix form maps to the tensor as the model stores it. Every tensor of a recipe
may carry leading batch axes (one entry for each condition).

Shape letters used in this file:
    *b: batch axes, none or one.
    R, C, K: rows, cols and kernel size of the matrix form.
    r: rank.
    p, q: kernel sizes folded into rows and cols, p * q = K.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from jaxtyping import Float
from torch import Tensor

from ghn.errors import ShapeError

__all__ = ["Dense", "Layout", "LowRank", "Recipe", "Tiled"]

ROW_AXES = "eo"
COL_AXES = "itv"
KERNEL_AXES = "k"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a stored tensor relates to its matrix form.

    Attributes:
        shape: Shape of the stored tensor.
        axes: One letter for each axis; see `ghn.graphs.ParamSpec`.

    Example:
        >>> layout = Layout((64, 3, 7, 7), "oikk")
        >>> layout.rows, layout.cols, layout.kernel
        (64, 3, 49)
    """

    shape: tuple[int, ...]
    axes: str

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes) or set(self.axes) - set("1eoitvk"):
            raise ShapeError(
                f"a layout needs one letter of '1eoitvk' for each axis, got shape={self.shape}, "
                f"axes={self.axes!r}"
            )

    @functools.cached_property
    def order(self) -> tuple[int, ...]:
        """Storage axes in the order of the matrix form: rows, cols, kernel, then singletons."""
        groups = (ROW_AXES, COL_AXES, KERNEL_AXES, "1")
        return tuple(i for g in groups for i, a in enumerate(self.axes) if a in g)

    def _product(self, letters: str) -> int:
        return math.prod(s for s, a in zip(self.shape, self.axes, strict=True) if a in letters)

    @functools.cached_property
    def rows(self) -> int:
        """Number of output channels, stacked copies included."""
        return self._product(ROW_AXES)

    @functools.cached_property
    def cols(self) -> int:
        """Number of input channels, vocabulary rows or positions."""
        return self._product(COL_AXES)

    @functools.cached_property
    def kernel(self) -> int:
        """Number of kernel positions."""
        return self._product(KERNEL_AXES)

    @functools.cached_property
    def kernel_shape(self) -> tuple[int, ...]:
        """Sizes of the kernel's axes, in storage order."""
        return tuple(s for s, a in zip(self.shape, self.axes, strict=True) if a in KERNEL_AXES)

    def to_storage(self, matrix: Float[Tensor, "*b R C K"]) -> Float[Tensor, "*b ..."]:
        """Rearrange a matrix form to the stored shape; a view wherever strides allow."""
        batch = matrix.shape[:-3]
        sizes = tuple(self.shape[i] for i in self.order)
        inverse = [0] * len(self.order)
        for position, axis in enumerate(self.order):
            inverse[axis] = position
        lead = len(batch)
        # Tuples, so that a scalar without batch axes has a shape too.
        return matrix.reshape((*batch, *sizes)).permute(
            (*range(lead), *(lead + i for i in inverse))
        )

    def from_storage(self, stored: Float[Tensor, "*b ..."]) -> Float[Tensor, "*b R C K"]:
        """Rearrange a stored tensor to matrix form; the inverse of `to_storage`."""
        lead = stored.ndim - len(self.shape)
        permuted = stored.permute((*range(lead), *(lead + i for i in self.order)))
        return permuted.reshape(*stored.shape[:lead], self.rows, self.cols, self.kernel)


@dataclasses.dataclass(frozen=True)
class Dense:
    """The values themselves, as stored.

    Attributes:
        values: `[*b, *layout.shape]`.
        layout: Where they belong.
    """

    values: Float[Tensor, "*b ..."]
    layout: Layout


@dataclasses.dataclass(frozen=True)
class LowRank:
    """A product of two factors, W[o, i, (u, v)] = sum_r left[(o, u), r] right[r, (i, v)].

    Attributes:
        left: `[*b, R * p, r]`.
        right: `[*b, r, C * q]`.
        layout: Where the product belongs; `p * q` is its kernel size.
    """

    left: Float[Tensor, "*b Rp r"]
    right: Float[Tensor, "*b r Cq"]
    layout: Layout

    @property
    def folds(self) -> tuple[int, int]:
        """The kernel sizes (p, q) folded into rows and cols."""
        rows, cols = max(self.layout.rows, 1), max(self.layout.cols, 1)
        return self.left.shape[-2] // rows, self.right.shape[-1] // cols


@dataclasses.dataclass(frozen=True)
class Tiled:
    """One block repeated along rows and cols, then cropped.

    Attributes:
        block: `[*b, R', C', K]`, in matrix form, with the full kernel.
        layout: Where the tiles belong.
    """

    block: Float[Tensor, "*b o i K"]
    layout: Layout


Recipe = Dense | LowRank | Tiled
