"""What both directions of the Triton backend share: launches, and strides of factors in tables."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch

from ghn.kernels.geometry import Field

__all__ = ["INTERPRETED", "TYPES", "Shapes", "fill_lowrank", "fill_tiled", "launch", "next_power"]

TYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

Shapes = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""Sizes and strides of each of a recipe's tensors, without batch axes."""


def fill_lowrank(row: list[int], shapes: Shapes, swapped: bool) -> None:
    """Write the factors' strides into a row."""
    (left, left_strides), (_, right_strides) = shapes
    x, y = left_strides, right_strides[::-1]
    if swapped:
        x, y = y, x
    row[Field.RANK] = left[1]
    row[Field.X_ROW], row[Field.X_RANK] = x
    row[Field.Y_ROW], row[Field.Y_RANK] = y


def fill_tiled(row: list[int], shapes: Shapes, swapped: bool) -> None:
    """Write a block's sizes and strides into a row."""
    (o, i, kernel), (along_o, along_i, along_kernel) = shapes[0]
    rows, cols = (1, o, along_o, 0), (kernel, i, along_i, along_kernel)
    if swapped:
        rows, cols = cols, rows
    row[Field.ROW_KERNEL : Field.X_MK + 1] = rows
    row[Field.COL_KERNEL : Field.X_NK + 1] = cols


def launch(kernel: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Run a kernel with as many programs as the device can hold, or fewer if tiles are few."""
    device, tiles = arguments[0].device, arguments[-1]
    if device.type != "cuda":
        kernel[(min(tiles, 2),)](*arguments, **options)
        return
    with torch.cuda.device(device):
        kernel[(min(tiles, 4 * _processors(device)),)](*arguments, **options)


@functools.lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def next_power(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()
