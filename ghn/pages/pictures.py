"""Pictures as files: an SVG is light or dark as the page that shows it.

Browsers tell a picture whether the page around it is light or dark (its `color-scheme`), and a
picture that is opened alone what its reader prefers. Text and background follow that together, so
that they can be read where a page does not say.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ghn.io import atomic_path
from ghn.pages.plots import COLOURS, TEXT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "picture"]

INK = TEXT
"""Colour for what is drawn on the background: dark on light, light on dark."""

BACK = "#fdfeff"  # stands for the background until the file is written
STYLE = """
<style>
svg { color: #1b1f24; fill: currentColor }
.back { fill: #ffffff }
@media (prefers-color-scheme: dark) { svg { color: #e6e9ee } .back { fill: #14171b } }
</style>
"""


@contextmanager
def picture(
    path: str | Path,
    size: tuple[float, float],
    *,
    dpi: int = 110,
    layout: Literal["constrained"] | None = "constrained",
) -> Iterator[Figure]:
    """Give a figure to draw into, and write it to a file afterwards, whole or not at all.

    Args:
        path: Where to write; the ending says the format: `.svg`, `.png`, `.pdf`.
        size: Width and height in inches.
        dpi: Dots an inch, where the format has dots.
        layout: How matplotlib makes room for labels; None leaves all places as they are given.
    """
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    kind = path.suffix.lower().lstrip(".") or "svg"
    colours: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    )
    colours |= {"axes.edgecolor": COLOURS[0], "axes.facecolor": "none", "figure.facecolor": BACK}
    # A fixed salt and no date: the same picture gives the same file.
    with matplotlib.rc_context({**colours, "svg.hashsalt": "ghn"}):
        figure = Figure(figsize=size, dpi=dpi, layout=layout)
        yield figure
        file = io.BytesIO()
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    data = file.getvalue()
    if kind == "svg":
        data = _adaptive(data.decode()).encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _adaptive(svg: str) -> str:
    """Return an SVG file in which ink and background are light or dark together."""
    svg = re.sub(rf'style="fill: {BACK}[^"]*"', 'class="back"', svg).replace(INK, "currentColor")
    head = svg.index(">", svg.index("<svg")) + 1
    return svg[:head] + STYLE + svg[head:]
