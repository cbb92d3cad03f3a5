"""Pictures of any mode as 8-bit colours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from ghn.errors import DataError

__all__ = ["read_picture"]

SIXTEEN_BITS = 257  # 65,535 / 255


def read_picture(source: Path | io.BytesIO, name: str | Path) -> Any:
    """Return a PIL picture in RGB; one of 16 bits a pixel is scaled, not cut off.

    Args:
        source: A file, or its bytes.
        name: What to call it in errors.

    Raises:
        DataError: If it is damaged or far too large, or its pixels are floating-point numbers,
            whose range is not known.
    """
    from PIL import Image

    try:
        with Image.open(source) as picture:
            return _rgb(picture)
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {name}: {error}") from error


def _rgb(picture: Any) -> Any:
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.int64)
        # 32 bits may hold 8 or 16 of them.
        if picture.mode != "I" or pixels.max(initial=0) > 255:
            pixels = pixels // SIXTEEN_BITS
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")
