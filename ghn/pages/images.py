"""Images in reports: frames of a film, samples, reconstructions beside what they should be.

Shape letters used in this file:
    h, w: height and width in pixels. c: 1 for grey, 3 for colours.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ghn.errors import ShapeError
from ghn.pages.page import escape

__all__ = ["Image", "Strip", "encode_png"]

SMALL = 64  # pixels; smaller images are enlarged without blur


def encode_png(pixels: Any) -> bytes:
    """Return an image as a PNG file.

    Args:
        pixels: Array or tensor `[h, w]` or `[h, w, c]`, bytes or floats in [0, 1]; what lies
            outside is clipped.

    Raises:
        ShapeError: If it has another shape.
    """
    from PIL import Image as Canvas

    array = np.asarray(pixels)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] != 3):
        raise ShapeError(
            f"an image needs the shape [h, w], [h, w, 1] or [h, w, 3], got {list(array.shape)}; "
            "channels come last"
        )
    if array.dtype != np.uint8:
        array = np.round(255 * np.clip(np.nan_to_num(array.astype(float)), 0, 1)).astype(np.uint8)
    file = io.BytesIO()
    Canvas.fromarray(array).save(file, format="PNG", optimize=True)
    return file.getvalue()


@dataclasses.dataclass(frozen=True)
class Image:
    """An image with its caption.

    Attributes:
        png: A PNG file, such as `encode_png` returns.
        caption: What it shows; also read to those who cannot see it.
    """

    png: bytes
    caption: str

    def to_html(self) -> str:
        """Return the image, which is in the page itself."""
        data = base64.b64encode(self.png).decode("ascii")
        height = int.from_bytes(self.png[20:24], "big")  # PNG's header has it there
        kind = ' class="pixels"' if height < SMALL else ""
        text = escape(self.caption)
        return (
            f'<figure><img{kind} alt="{text}" src="data:image/png;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>"
        )


@dataclasses.dataclass(frozen=True)
class Strip:
    """Images side by side in the order of reading, such as the frames of a film.

    A strip that is wider than the page scrolls; in print it goes on in further lines.

    Attributes:
        images: The images.
        heading: Heading above them, if any.
        caption: What they are together, below them.
    """

    images: Sequence[Image]
    heading: str = ""
    caption: str = ""

    def to_html(self) -> str:
        """Return heading, images and caption."""
        heading = f"<h2>{escape(self.heading)}</h2>" if self.heading else ""
        caption = f'<p class="quiet">{escape(self.caption)}</p>' if self.caption else ""
        images = "".join(image.to_html() for image in self.images)
        return f'{heading}<div class="strip" tabindex="0">{images}</div>{caption}'
