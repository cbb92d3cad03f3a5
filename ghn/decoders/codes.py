"""Codes: what tells one channel, class, vocabulary row or position of a tensor from another.

A decoder emits a small core for each parameter; the codes of the parameter's rows and columns turn
it into a tensor of any size. Channel codes are shared by all layers and all networks, so that the
columns of one layer speak of the same channels as the rows of the layer before. All codes have a
root mean square of 1.

The width rule: index j of a table of K rows is row j mod K, times a fixed pseudo-random pattern of
signs that belongs to j // K (all +1 for the first K). Norms stay, no two rows are equal, and the
signs are the same on every machine.

Shape letters used in this file:
    K: rows of a table.
    r: size of a code.
    n: codes asked for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.decoders.places import MAX_TOKENS, position_features
from ghn.graphs import ParamSpec

__all__ = ["CodeBook", "Codes", "lookup", "sign_patterns"]

# Enough for image channels and, in patch embeddings that are linear, small flattened patches.
IMAGE_ROWS = 64


@functools.lru_cache(maxsize=256)
def sign_patterns(count: int, size: int) -> Float32[Tensor, "count size"]:
    """Return rows of +1 and -1, a fixed function of row and column; row 0 is all +1.

    Source:
        The bit mixer is that of SplitMix64 (Steele, Lea and Flood 2014).
    """
    row = np.arange(count, dtype=np.uint64)[:, None]
    column = np.arange(size, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = ((row << np.uint64(32)) + column) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    signs = 1.0 - 2.0 * (z >> np.uint64(63)).astype(np.float32)
    signs[:1] = 1.0
    return torch.from_numpy(signs)


def lookup(table: Float[Tensor, "*b K r"], count: int) -> Float[Tensor, "*b n r"]:
    """Return the codes of indices 0 to `count` - 1 by the module's width rule.

    Example:
        >>> lookup(torch.ones(2, 8), 5).abs().sum()
        tensor(40.)
    """
    rows, size = table.shape[-2:]
    if count <= rows:
        return table[..., :count, :]
    signs = sign_patterns(-(-count // rows), size).to(table)
    repeated = table.unsqueeze(-3) * signs.unsqueeze(1)
    return repeated.flatten(-3, -2)[..., :count, :]


def orthogonal_rows(count: int, size: int) -> Float[Tensor, "count size"]:
    """Return random rows of root mean square 1, orthogonal within each block of `size` rows."""
    blocks = [nn.init.orthogonal_(torch.empty(size, size)) for _ in range(-(-count // size))]
    return torch.cat(blocks)[:count] * math.sqrt(size)


class Codes(nn.Module):
    """Learned codes of rows and columns.

    Args:
        rows: Rows K of the tables of channels, classes and vocabulary rows.
        size: Size r of a code.
    """

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        # A layer's columns start with the codes of the rows before it, in orthogonal blocks:
        # products of layers are then products of cores, also at widths that were never trained.
        self.out = nn.Parameter(orthogonal_rows(rows, size))
        self.into = nn.Parameter(self.out.detach().clone())
        self.classes = nn.Parameter(torch.randn(rows, size))
        self.vocabulary = nn.Parameter(torch.randn(rows, size))
        self.image = nn.Parameter(torch.randn(IMAGE_ROWS, size))
        self.constant = nn.Parameter(torch.randn(1, size))
        self.token = nn.Parameter(torch.randn(MAX_TOKENS, size))
        features = position_features((1,), "position")[1].shape[1]
        self.position = nn.Sequential(
            nn.Linear(features, 2 * size), nn.GELU(), nn.Linear(2 * size, size)
        )


class CodeBook:
    """The codes of one forward pass; each kind and size is computed once.

    Args:
        codes: Tables and networks.
    """

    def __init__(self, codes: Codes) -> None:
        self.codes = codes
        self._known: dict[Hashable, Tensor] = {}

    def rows(self, spec: ParamSpec, count: int) -> Float[Tensor, "n r"]:
        """Return the codes of the output channels of a parameter, or of its classes.

        Args:
            spec: The parameter.
            count: Number of rows that have codes of their own.
        """
        if not spec.sizes("oe"):
            return self.constant(count)
        return self._table("classes" if spec.head else "out", count)

    def cols(self, spec: ParamSpec, count: int) -> Float[Tensor, "n r"]:
        """Return the codes of a parameter's columns: channels, positions, vocabulary, or none.

        Args:
            spec: The parameter.
            count: Number of columns.
        """
        kinds = {axis for axis in spec.axes if axis in "itv"}
        if count == 1 or not kinds:
            return self.constant(count)
        if kinds == {"t"}:
            return self._positions(spec.sizes("t"), spec.role)
        if kinds == {"v"}:
            return self._table("vocabulary", count)
        return self._table("image" if spec.stem else "into", count)

    def constant(self, count: int) -> Float[Tensor, "n r"]:
        """Return the code of rows or columns that have no names, such as those of scalars."""
        return self._table("constant", 1).expand(count, -1)

    def _table(self, kind: str, count: int) -> Tensor:
        # Only what is used: most networks are narrow.
        return self._once(
            (kind, count), lambda: lookup(_unit(getattr(self.codes, kind)[:count]), count)
        )

    def _positions(self, sizes: tuple[int, ...], role: str) -> Tensor:
        return self._once((sizes, role), lambda: self._make_positions(sizes, role))

    def _make_positions(self, sizes: tuple[int, ...], role: str) -> Tensor:
        if role == "token" and math.prod(sizes) <= MAX_TOKENS:
            return _unit(self.codes.token[: math.prod(sizes)])
        tokens, features = position_features(sizes, role)
        codes = self.codes.position(features.to(self.codes.token))
        if len(codes) > 2:
            # What all positions share is no code: without it they differ from the start. Of two,
            # it would leave opposites, and a table of rank 1.
            codes = codes - codes.mean(0)
        return _unit(torch.cat([self.codes.token[:tokens], codes]))

    def _once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]


def _unit(codes: Tensor) -> Tensor:
    """Scale each code to a root mean square of 1."""
    return F.rms_norm(codes, codes.shape[-1:])
