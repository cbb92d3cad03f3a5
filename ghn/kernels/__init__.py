"""Recipe types and what expands them."""

from ghn.kernels.expand import bound, entry, expand, expand_out, is_finite, mean_square, scaled
from ghn.kernels.recipes import Dense, Layout, LowRank, Recipe, Tiled

__all__ = [
    "Dense",
    "Layout",
    "LowRank",
    "Recipe",
    "Tiled",
    "bound",
    "entry",
    "expand",
    "expand_out",
    "is_finite",
    "mean_square",
    "scaled",
]
