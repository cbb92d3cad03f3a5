"""Tensors without values, and how long a text is."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TOKENS", "floats", "ids", "ones"]

TOKENS = 16


def floats(*shape: int) -> Tensor:
    """Return floats without values."""
    return torch.empty(shape, device="meta")


def ids(*shape: int) -> Tensor:
    """Return integers without values, such as token ids."""
    return torch.empty(shape, device="meta", dtype=torch.long)


def ones(*shape: int) -> Tensor:
    """Return integers that are all one, such as a mask."""
    return torch.ones(shape, dtype=torch.long)
