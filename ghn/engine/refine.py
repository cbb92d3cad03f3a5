"""After a prediction: noise, and orthogonal weights, each at the size that was predicted.

A hypernetwork writes channels that are alike, up to exact copies where a decoder tiles. Noise sets
them apart; orthogonalisation also spreads what is left over all directions. Both may help training
and cost accuracy before it.

Source: both follow what Knyazev et al. (GHN-3, 2023, arXiv 2303.04143, section 4) do before they
fine-tune; the polar factor in place of a QR decomposition, and the size that is kept, are ours.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ghn.engine.magnitude import MATRICES
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph, ParamSpec
from ghn.kernels import Dense, Recipe, expand
from ghn.rng import make_generator

__all__ = ["refine"]

# Directions that a matrix of low rank leaves open are drawn, not left to rounding errors.
OPEN_DIRECTIONS = 1e-4


def refine(
    recipes: Mapping[str, Recipe],
    graph: ParamGraph,
    *,
    noise: float = 0.0,
    orthogonalize: bool = False,
    seed: int = 0,
) -> dict[str, Recipe]:
    """Return recipes with noise in their weights, and orthogonal weights; sizes stay.

    Vectors, tables and gains stay as they are, and the layer that emits the output is not
    orthogonalised. What changes becomes dense: it takes the memory of these weights once more.

    Args:
        recipes: By parameter name.
        graph: The graph that they are for.
        noise: Standard deviation of Gaussian noise, as a share of each weight's root mean square.
        orthogonalize: Whether weights become their polar factor, in each group of a convolution
            by itself: rows orthonormal, or columns, whichever are fewer, times a factor.
        seed: Of the noise.

    Raises:
        ConfigError: If noise is negative, not finite or no number.
    """
    number = isinstance(noise, numbers.Real) and not isinstance(noise, bool)
    if not number or not 0 <= noise < math.inf:
        raise ConfigError(f"noise must be a finite number of at least 0, got {noise!r}")
    result = dict(recipes)
    for name, recipe in recipes.items():
        spec = graph.specs[name]
        turn = orthogonalize and not spec.head
        if spec.role not in MATRICES or not (noise or turn):
            continue
        values = expand(recipe)
        size = values.square().mean().sqrt()
        share = max(float(noise), OPEN_DIRECTIONS if turn else 0.0)
        generator = make_generator(seed, "noise", name)
        # In one type, whatever torch's default is: another one would draw other numbers.
        drawn = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(values)
        # The sum's size is set below; above 1 it is the weights that shrink, lest noise overflows.
        large = max(share, 1.0)
        values = values / large + share / large * size * drawn
        if turn:
            transposed = graph.nodes[spec.node].op == "conv_transpose"
            values = _orthogonal(values, spec, transposed=transposed)
        now = values.square().mean().sqrt().clamp_min(torch.finfo(values.dtype).tiny)
        result[name] = Dense(values * (size / now), recipe.layout)
    return result


def _orthogonal(
    values: Float[Tensor, "*shape"], spec: ParamSpec, *, transposed: bool
) -> Float[Tensor, "*shape"]:
    """Return the polar factor of a weight, of each copy and group by itself.

    Args:
        values: The weight.
        spec: What it is.
        transposed: Whether it is the kernel of a transposed convolution, in which the input axis
            counts the channels of all groups, not the output axis.
    """
    letters = "eio" if transposed else "eoi"
    order = [i for letter in letters for i, a in enumerate(spec.axes) if a == letter]
    order += [i for i, a in enumerate(spec.axes) if a not in letters]
    copies, outer, inner = (math.prod(spec.sizes(letter)) for letter in letters)
    moved = values.permute(order)
    blocks = moved.reshape(copies * spec.groups, outer // spec.groups, inner, -1)
    rows_first = blocks.transpose(1, 2) if transposed else blocks
    left, _, right = torch.linalg.svd(rows_first.flatten(2), full_matrices=False)
    turned = (left @ right).reshape(rows_first.shape)
    turned = turned.transpose(1, 2) if transposed else turned
    inverse = [order.index(i) for i in range(values.ndim)]
    return turned.reshape(moved.shape).permute(inverse)
