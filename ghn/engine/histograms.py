"""Distributions of a model's parameters, a piece at a time: no second copy of the model is made.

Taken before and after a prediction they show what changed, without the old values being kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ghn.graphs.page import Histogram

__all__ = ["histogram", "parameter_histograms"]

BINS = 48
PIECE = 1 << 20  # elements that are converted to float64 at once: 8 MiB


def parameter_histograms(model: nn.Module) -> dict[str, Histogram]:
    """Return the distribution of every parameter that has floating-point values.

    Args:
        model: Its parameters are read, one after the other; tied ones under their leading name.
    """
    found = ((name, histogram(tensor)) for name, tensor in model.named_parameters())
    return {name: one for name, one in found if one is not None}


@torch.no_grad()
def histogram(values: Tensor, bins: int = BINS) -> Histogram | None:
    """Return the distribution of a tensor's finite values.

    Args:
        values: Of any shape, floating-point type and device. If its elements do not lie one after
            the other in memory, a copy of it is made.
        bins: Number of equal bins from the smallest to the largest value.

    Returns:
        The distribution; None if there is no finite value, or values of another kind.
    """
    if values.is_meta or not values.is_floating_point() or values.layout != torch.strided:
        return None
    pieces = values.detach().flatten().split(PIECE)
    count, total, low, high = 0, 0.0, math.inf, -math.inf
    for piece in map(_finite, pieces):
        if piece.numel():
            count += piece.numel()
            total += piece.sum().item()
            low, high = min(low, piece.min().item()), max(high, piece.max().item())
    if not count:
        return None
    mean = total / count
    squares = sum((_finite(piece) - mean).square().sum().item() for piece in pieces)
    counts = torch.zeros(bins if low < high else 1, dtype=torch.float64, device=values.device)
    for piece in map(_finite, pieces):
        counts += torch.histc(piece, len(counts), low, high) if low < high else piece.numel()
    return Histogram(
        low, high, mean, math.sqrt(squares / count), tuple(int(c) for c in counts.tolist())
    )


def _finite(piece: Tensor) -> Tensor:
    wide = piece.double()
    return wide[wide.isfinite()]
