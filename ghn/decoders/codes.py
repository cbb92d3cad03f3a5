"""Codes: what tells one channel, class, vocabulary row or position of a tensor from another.

A decoder emits a small core for each parameter; the codes of the parameter's rows and columns turn
it into a tensor of any size. Channel codes are shared by all layers and all networks, so that the
columns of one layer speak of the same channels as the rows of the layer before.

Width rule: index j >= K of a table of K rows takes row j mod K with its signs flipped by a fixed
pseudo-random pattern that depends on j // K alone. Norms stay, and no two rows are equal.

Shape letters used in this file:
    R, C: rows and columns of a parameter in matrix form.
    K: rows of a table.
    r: size of a code.
"""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ghn.graphs import ParamSpec
from ghn.rng import make_generator

__all__ = ["Codes", "lookup", "position_features"]

IMAGE_CHANNELS = 16
CLASSES = 1024
FREQUENCIES = 4
SIGN_SEED = 2110_13100


def lookup(
    table: Float[Tensor, "K r"], count: int, order: Int[Tensor, " K"] | None = None
) -> Float[Tensor, "n r"]:
    """Return the codes of indices 0 to `count` - 1 by the module's width rule.

    Args:
        table: Learned codes.
        count: Number of codes wanted, any size.
        order: Which row of the table index 0, 1, ... takes; 0, 1, ... if None.
    """
    size = table.shape[0]
    if count <= size:
        return table[:count] if order is None else table[order[:count]]
    index = torch.arange(count, device=table.device)
    rows = index % size
    signs = _signs(-(-count // size), table.shape[1]).to(table)
    return table[rows if order is None else order[rows]] * signs[index // size]


@functools.lru_cache(maxsize=64)
def _signs(blocks: int, size: int) -> Tensor:
    """Patterns of +-1, the first one all +1."""
    generator = make_generator(SIGN_SEED, "width", size)
    draws = [torch.ones(1, size)]
    for _ in range(blocks - 1):
        draws.append(torch.randint(0, 2, (1, size), generator=generator) * 2.0 - 1.0)
    return torch.cat(draws)


def position_features(sizes: tuple[int, ...], is_table: bool) -> Float[Tensor, "T f"]:
    """Fourier features of the positions of a table, relative to its size.

    Args:
        sizes: Sizes of the position axes. One axis of n * n, n * n + 1 or n * n + 2 rows counts as
            a grid of patches after 0 to 2 tokens, two axes as a grid, anything else as a line.
        is_table: Whether rows are looked up by index, as in language models; then it is a line.

    Returns:
        Sine and cosine of each frequency along both axes, and whether a row is a token.
    """
    count = math.prod(sizes)
    height, width, tokens = _grid(sizes, count, is_table)
    row = torch.arange(height).repeat_interleave(width) / max(height - 1, 1)
    column = torch.arange(width).repeat(height) / max(width - 1, 1)
    angles = math.pi * torch.stack([row, column], 1)[:, :, None] * 2.0 ** torch.arange(FREQUENCIES)
    waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
    grid = torch.cat([waves, torch.zeros(len(waves), 3)], 1)
    head = torch.zeros(tokens, grid.shape[1])
    head[:, -3:] = torch.eye(3)[:tokens]
    return torch.cat([head, grid])


def _grid(sizes: tuple[int, ...], count: int, is_table: bool) -> tuple[int, int, int]:
    """Return height, width and number of leading tokens of a position table."""
    if len(sizes) == 2:
        return sizes[0], sizes[1], 0
    if not is_table and len(sizes) == 1:
        for tokens in range(3):
            side = math.isqrt(max(count - tokens, 0))
            if side > 1 and side * side == count - tokens:
                return side, side, tokens
    return count, 1, 0


class Codes(nn.Module):
    """Learned codes of rows and columns.

    Args:
        rows: Rows K of the channel tables.
        size: Size r of a code.
    """

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.randn(rows, size))
        self.into = nn.Parameter(torch.randn(rows, size))
        self.vocabulary = nn.Parameter(torch.randn(rows, size))
        self.classes = nn.Parameter(torch.randn(CLASSES, size))
        self.image = nn.Parameter(torch.randn(IMAGE_CHANNELS, size))
        self.constant = nn.Parameter(torch.randn(1, size))
        features = 4 * FREQUENCIES + 3
        self.position = nn.Sequential(nn.Linear(features, 64), nn.GELU(), nn.Linear(64, size))

    def rows(self, spec: ParamSpec, count: int, order: Tensor | None) -> Float[Tensor, "R r"]:
        """Return the codes of `count` output channels of a parameter."""
        if not spec.sizes("o"):
            return self.constant.expand(count, -1)
        if spec.head:
            return lookup(self.classes, count)
        return lookup(self.out, count, order)

    def cols(self, spec: ParamSpec, count: int, order: Tensor | None) -> Float[Tensor, "C r"]:
        """Return the codes of the columns of a parameter: channels, vocabulary or positions."""
        if spec.sizes("v"):
            return lookup(self.vocabulary, count)
        if spec.sizes("t"):
            features = position_features(spec.sizes("t"), spec.role == "table")
            return self.position(features.to(self.constant))
        if not spec.sizes("i"):
            return self.constant.expand(count, -1)
        if spec.stem:
            return lookup(self.image, count)
        return lookup(self.into, count, order)
