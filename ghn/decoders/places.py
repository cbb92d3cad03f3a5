"""Places: coordinates of kernel elements and positions, and features of them.

Shape letters used in this file:
    m: places of a grid.
    f: features.
"""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float32
from torch import Tensor

from ghn.device import ordinary_tensors

__all__ = ["AXES", "MAX_TOKENS", "grid_of", "offsets", "position_features", "reach"]

AXES = 3
MAX_TOKENS = 3
FREQUENCIES = 6
# Wavelengths in a table: 4 positions to 11,600, which is longer than language models' tables.
SHORTEST, OCTAVE = 4.0, 11.5 / 17


def offsets(sizes: tuple[int, ...]) -> Float32[Tensor, "m 3"]:
    """Return the offset of every place of a grid from its centre, in elements.

    Args:
        sizes: Sizes of the grid's axes. They are right-aligned: a missing axis has offset 0, and
            more than three are flattened into the first. Places come in row-major order.
    """
    if len(sizes) > AXES:
        sizes = (math.prod(sizes[: 1 - AXES]), *sizes[1 - AXES :])
    padded = (*[1] * (AXES - len(sizes)), *sizes)
    lines = [torch.arange(size) - (size - 1) / 2 for size in padded]
    return torch.cartesian_prod(*lines)


def reach(places: Float32[Tensor, "m 3"]) -> Float32[Tensor, " 3"]:
    """Return the largest offset along each axis, at least half an element."""
    return places.abs().amax(0).clamp_min(0.5) if len(places) else torch.full((AXES,), 0.5)


def grid_of(sizes: tuple[int, ...], role: str) -> tuple[int, tuple[int, ...]]:
    """Tell how positions are laid out: the number of leading tokens, and the grid of the others.

    One axis of role `position` is a square grid if its size is a square number, at least 4, plus 0
    to 3 tokens (class and distillation tokens). Every other single axis is a line, as language
    models' tables are. Several axes are a grid as they stand.

    Example:
        >>> grid_of((197,), "position"), grid_of((77,), "position"), grid_of((7, 9), "position")
        ((1, (14, 14)), (0, (77,)), (0, (7, 9)))
    """
    if len(sizes) == 1 and role == "position":
        for tokens in range(MAX_TOKENS + 1):
            side = math.isqrt(max(sizes[0] - tokens, 0))
            if side >= 2 and side * side + tokens == sizes[0]:
                return tokens, (side, side)
    return 0, sizes


@functools.lru_cache(maxsize=64)
@ordinary_tensors()
def position_features(sizes: tuple[int, ...], role: str) -> tuple[int, Float32[Tensor, "m f"]]:
    """Return the number of leading tokens, and waves of the positions of the grid after them.

    Args:
        sizes: Sizes of the position axes.
        role: Role of the parameter; see `grid_of`.

    Returns:
        Sines and cosines. On a grid they run along each axis, from half a wave over the grid
        upwards in octaves, relative to the grid's size: another resolution reads the same waves.
        In a table they count positions, so that a longer table begins with the same rows.
    """
    if role == "table" and len(sizes) == 1:
        lengths = SHORTEST * 2.0 ** (torch.arange(AXES * FREQUENCIES) * OCTAVE)
        angles = 2 * math.pi * torch.arange(sizes[0]).unsqueeze(-1) / lengths
        return 0, torch.cat([angles.sin(), angles.cos()], -1)
    tokens, grid = grid_of(sizes, role)
    places = offsets(grid)
    octaves = 2.0 ** torch.arange(FREQUENCIES)
    angles = (math.pi / 2 * places / reach(places)).unsqueeze(-1) * octaves
    return tokens, torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
