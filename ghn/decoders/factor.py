"""Factor head: the codes of rows and columns around a core that the node decides.

In matrix form, W[:, :, k] = L M_k R^T / r with row codes L, column codes R, and a core M_k that is
a mix of s matrices emitted from the node, mixed by coefficients of the kernel element k.

Source: ours. It shares with LoGAH (Zhou et al. 2024, arXiv 2405.16287) that weights are low-rank
products; the codes make width a question of codes instead of a question of head size.

Parameters with a single column have small weights of their own in place of a core.

Shape letters used in this file:
    B: conditions. P: sections of all parameters. p: sections of one group.
    n: parameters of a stack. q: sections of each of them.
    R, C, K: rows of a section, columns and kernel size in matrix form.
    r: rank. s: kernel basis. h: hidden size. m: numbers emitted for one element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.decoders.codes import CodeBook, Codes
from ghn.decoders.kernel_basis import KernelBasis
from ghn.decoders.nodes import Stack, gather, scatter, stacks_of
from ghn.graphs import ParamSpec
from ghn.kernels import Dense, LowRank, Recipe

__all__ = ["FactorHead"]


class FactorHead(nn.Module):
    """Emits the factors of every parameter; vectors and depthwise kernels come out dense.

    Args:
        hidden: Size h of a section's vector.
        rank: Rank r.
        kernel_basis: Number s of matrices that a parameter's kernel elements mix.
        rows: Rows of the code tables.
    """

    def __init__(self, hidden: int, rank: int, kernel_basis: int, rows: int) -> None:
        super().__init__()
        self.rank, self.rows = rank, rows
        self.codes = Codes(rows, rank)
        self.kernel = KernelBasis(kernel_basis)
        scale = 1.0 / math.sqrt(hidden)
        self.core = nn.Parameter(scale * torch.randn(kernel_basis, rank * rank, hidden))
        self.core_shift = nn.Parameter(torch.zeros(kernel_basis, rank * rank))
        self.column = nn.Parameter(scale * torch.randn(kernel_basis, rank, hidden))
        self.column_shift = nn.Parameter(torch.zeros(kernel_basis, rank))

    def forward(
        self, sections: Float[Tensor, "B P h"], specs: Mapping[Any, ParamSpec]
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return one recipe for each stack of parameters."""
        book = CodeBook(self.codes)
        groups: dict[tuple[bool, bool], list[Stack]] = {}
        for stack in stacks_of(specs):
            kind = (stack.layout.cols == 1, stack.layout.kernel == 1)
            groups.setdefault(kind, []).append(stack)
        recipes: dict[tuple[Any, ...], Recipe] = {}
        for (single_column, pointwise), stacks in groups.items():
            make = self._vectors if single_column else self._products
            weights = (
                (self.column, self.column_shift) if single_column else (self.core, self.core_shift)
            )
            x = gather(sections, stacks)
            for stack, emitted in zip(
                stacks, self._emit(x, stacks, *weights, pointwise), strict=True
            ):
                recipes[stack.keys] = make(emitted, stack, book)
        return recipes

    def _emit(
        self,
        x: Float[Tensor, "B p h"],
        stacks: Sequence[Stack],
        weight: Float[Tensor, "s m h"],
        shift: Float[Tensor, "s m"],
        pointwise: bool,
    ) -> list[Float[Tensor, "B n q K m"]]:
        """Emit m numbers for each kernel element of each section.

        Kernels of one element mix the weights, all others what the weights emit. The result is
        divided by r, because an element of W sums r * r products. The division is not left to the
        weights: an optimiser's steps, of one size for all weights, would be too large there.
        """
        if pointwise:
            mix = self.kernel(())
            mixed = (mix @ weight.flatten(1)).unflatten(1, weight.shape[1:])[0]
            values = nn.functional.linear(x, mixed, (mix @ shift)[0]) / self.rank
            return scatter(values.unsqueeze(2), stacks)
        values = nn.functional.linear(x, weight.flatten(0, 1), shift.flatten()) / self.rank
        bases = scatter(values.unflatten(-1, shift.shape), stacks)
        kernels = {s.layout.kernel_shape: self.kernel(s.layout.kernel_shape) for s in stacks}
        return [
            kernels[s.layout.kernel_shape] @ basis for s, basis in zip(stacks, bases, strict=True)
        ]

    def _products(
        self, emitted: Float[Tensor, "B n q K rr"], stack: Stack, book: CodeBook
    ) -> Recipe:
        """Multiply cores with the codes of the shorter side; the other codes stay shared."""
        layout = stack.layout
        cores = emitted.unflatten(-1, (self.rank, self.rank))
        batch, count, sections = cores.shape[:3]
        rows = book.rows(stack.spec, layout.rows // sections)
        cols = book.cols(stack.spec, layout.cols)
        if sections == 1 and layout.rows >= layout.cols:
            right = (cores[:, :, 0] @ cols.T).movedim(2, -1)  # B n r C K
            left = rows.expand(batch, count, -1, -1)
            return LowRank(left, right.flatten(3), layout)
        left = rows @ cores.transpose(3, 4).flatten(4)  # B n q R (K r)
        right = cols.T.expand(batch, count, -1, -1)
        left = left.reshape(batch, count, layout.rows * layout.kernel, self.rank)
        return LowRank(left, right, layout)

    def _vectors(self, emitted: Float[Tensor, "B n q K r"], stack: Stack, book: CodeBook) -> Recipe:
        """Multiply with the row codes."""
        layout = stack.layout
        batch, count, sections = emitted.shape[:3]
        rows = book.rows(stack.spec, layout.rows // sections)
        values = rows @ emitted.transpose(3, 4)  # B n q R K
        matrix = values.reshape(batch, count, layout.rows, 1, layout.kernel)
        return Dense(layout.to_storage(matrix), layout)
