"""Factor head: the codes of rows and columns around a core that the node decides.

In matrix form, W[:, :, k] = L M_k R^T / r with row codes L, column codes R, and a core M_k that is
a mix of s matrices emitted from the node, mixed by coefficients of the kernel element k.

Source: ours. It shares with LoGAH (Zhou et al. 2024, arXiv 2405.16287) that weights are low-rank
products; the codes make width a question of codes instead of a question of head size.

Shape letters used in this file:
    B: conditions. P: sections of all parameters. p: sections of one group or parameter.
    R, C, K: rows of a section, columns and kernel size of a parameter in matrix form.
    r: rank. s: kernel basis. h: hidden size. m: numbers emitted for one element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.decoders.codes import CodeBook, Codes
from ghn.decoders.kernel_basis import KernelBasis
from ghn.decoders.nodes import Member, gather, groups_of
from ghn.graphs import ParamSpec
from ghn.kernels import Dense, LowRank, Recipe

__all__ = ["FactorHead"]

Order = Tensor | None


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
        self.core = nn.Parameter(scale * torch.randn(kernel_basis, rank, rank, hidden))
        self.shift = nn.Parameter(torch.zeros(kernel_basis, rank, rank))

    def forward(
        self,
        sections: Float[Tensor, "B P h"],
        specs: Mapping[Any, ParamSpec],
        order: Mapping[Any, Tensor] | None,
    ) -> dict[Any, Recipe]:
        """Return one recipe for each spec."""
        book = CodeBook(self.codes)
        recipes: dict[Any, Recipe] = {}
        for kernel, single_column, members in groups_of(specs):
            x = gather(sections, members)
            if single_column:
                weight, shift = self._at_column(book.constant(1)[0])
            else:
                weight, shift = self.core.flatten(1, 2), self.shift.flatten(1)
            emitted = self._emit(x, weight, shift, kernel).split([m.sections for m in members], 1)
            for member, own in zip(members, emitted, strict=True):
                own_order = None if order is None else order[member.key]
                make = self._vector if single_column else self._product
                recipes[member.key] = make(own, member, book, own_order)
        return {key: recipes[key] for key in specs}

    def _at_column(
        self, code: Float[Tensor, " r"]
    ) -> tuple[Float[Tensor, "s r h"], Float[Tensor, "s r"]]:
        """Multiply cores with the code of a single column before they are emitted."""
        return torch.einsum("sijh,j->sih", self.core, code), self.shift @ code

    def _emit(
        self,
        x: Float[Tensor, "B p h"],
        weight: Float[Tensor, "s m h"],
        shift: Float[Tensor, "s m"],
        kernel: tuple[int, ...],
    ) -> Float[Tensor, "B p K m"]:
        """Emit m numbers for each kernel element, mixing on whichever side has less to mix.

        They are divided by r, because an element of W sums r * r products. The division is not left
        to the weights: an optimiser's steps, of one size for all weights, would be too large there.
        """
        mix = self.kernel(kernel)
        elements, basis = mix.shape
        if elements < basis:
            weight = (mix @ weight.flatten(1)).unflatten(1, weight.shape[1:])
            shift = mix @ shift
        emitted = nn.functional.linear(x, weight.flatten(0, 1), shift.flatten())
        emitted = emitted.unflatten(-1, shift.shape) / self.rank
        return emitted if elements < basis else mix @ emitted

    def _product(
        self, emitted: Float[Tensor, "B p K rr"], member: Member, book: CodeBook, order: Order
    ) -> Recipe:
        """Multiply cores with the codes of the shorter side; the other codes stay shared."""
        layout, spec = member.layout, member.spec
        cores = emitted.unflatten(-1, (self.rank, self.rank))
        batch, sections = cores.shape[:2]
        rows = book.rows(spec, layout.rows // sections, order)
        cols = book.cols(spec, layout.cols, order)
        if sections == 1 and layout.rows > layout.cols:
            right = (cores[:, 0] @ cols.T).movedim(1, -1)  # B r C K
            left = rows.expand(batch, -1, -1)
            return LowRank(left, right.flatten(2), layout)
        left = rows @ cores.transpose(2, 3).flatten(3)  # B p R (K r)
        right = cols.T.expand(batch, -1, -1)
        return LowRank(left.reshape(batch, layout.rows * layout.kernel, self.rank), right, layout)

    def _vector(
        self, emitted: Float[Tensor, "B p K r"], member: Member, book: CodeBook, order: Order
    ) -> Recipe:
        """Multiply what is left of a core at the single column with the row codes."""
        layout = member.layout
        batch, sections = emitted.shape[:2]
        rows = book.rows(member.spec, layout.rows // sections, order)
        values = rows @ emitted.transpose(2, 3)  # B p R K
        matrix = values.reshape(batch, layout.rows, 1, layout.kernel)
        return Dense(layout.to_storage(matrix), layout)
