"""Recipe types and what expands them.

`expand` and `expand_out` take one recipe and are the plain-PyTorch reference; `expand_all` and
`expand_all_out` take many at once, and `ghn.kernels.dispatch` chooses what runs.
"""

from ghn.kernels.expand import (
    bound,
    entries,
    entry,
    expand,
    expand_out,
    is_finite,
    mean_square,
    merged,
    parted,
    picked,
    scaled,
)
from ghn.kernels.many import expand_all, expand_all_out, expand_entries
from ghn.kernels.recipes import Dense, Layout, LowRank, Recipe, Tiled

__all__ = [
    "Dense",
    "Layout",
    "LowRank",
    "Recipe",
    "Tiled",
    "bound",
    "entries",
    "entry",
    "expand",
    "expand_all",
    "expand_all_out",
    "expand_entries",
    "expand_out",
    "is_finite",
    "mean_square",
    "merged",
    "parted",
    "picked",
    "scaled",
]
