"""Contact sheets: many equally sized tiles in one picture, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["read_tiles"]


def read_tiles(path: Path, height: int, width: int, mode: str = "RGB") -> np.ndarray:
    """Return the tiles of a sheet as bytes `[N, height, width, c]`; without `c` if it is one.

    Args:
        path: The picture.
        height: Of a tile, in pixels.
        width: Of a tile, in pixels.
        mode: How pixels are read, as in Pillow: `"RGB"`, or `"L"` for one byte.
    """
    from PIL import Image

    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert(mode))
    rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
    grid = pixels.reshape(rows, height, columns, width, *pixels.shape[2:]).swapaxes(1, 2)
    return grid.reshape(rows * columns, height, width, *pixels.shape[2:])
