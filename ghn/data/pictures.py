"""Pictures of any mode as 8-bit colours."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["rgb"]

SIXTEEN_BITS = 257  # 65,535 / 255


def rgb(picture: Any) -> Any:
    """Return a PIL picture in RGB; one of 16 bits a pixel is scaled, not cut off.

    Raises:
        ValueError: If its pixels are floating-point numbers, whose range is not known.
        OSError: If its file is damaged.
    """
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.int64)
        if pixels.max(initial=0) > 255:
            pixels = pixels // SIXTEEN_BITS
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")
