"""Magnitude: how large emitted parameters are.

Source: fan-in scaling of predicted parameters in GHN-2 and GHN-3 (arXiv 2110.13100, 2303.04143).
Setting the exact size of a low-rank product through r x r Gram matrices, the bounded say that the
decoder keeps, and the factor on residual branches are ours.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ghn.graphs import ParamGraph, ParamSpec
from ghn.graphs.structure import magnitude_facts
from ghn.kernels import Dense, Recipe, expand, mean_square, scaled

__all__ = ["SPREAD", "batch_entry", "set_magnitude"]

SPREAD = 2.0
"""The decoder may make a weight up to this many times larger or smaller than the rule says."""

_SMALL = 0.02  # what vision and language transformers draw tables, positions and tokens with
_MATRICES = frozenset({"weight", "recurrent_weight", "direction", "lora_a", "lora_b"})
_FACTORS = frozenset({"gain", "scale", "magnitude", "slope"})


def set_magnitude(graph: ParamGraph, spec: ParamSpec, recipe: Recipe) -> Recipe:
    r"""Return the recipe with the magnitude that its role asks for.

    With v the decoder's raw values, s their root mean square, and
    g = SPREAD ** tanh(log_SPREAD s), which lies between 1/SPREAD and SPREAD and is 1 where s = 1:

    | role | result |
    |---|---|
    | weight, recurrent weight, direction | (v / s) sqrt(beta / fan_in) g; beta = 2 before a rectifier, else 1 |
    | gain, scale | 2 sigmoid(v / 2) |
    | magnitude (weight normalisation's g) | sqrt(beta) 2 sigmoid(v / 2) |
    | slope | 0.25 * 2 sigmoid(v / 2) |
    | bias, recurrent bias | 0.5 tanh(v / 5) |
    | table, position, token, other | (v / s) 0.02 g |

    The parameter that ends a residual branch (its last gain, layer scale or weight) is multiplied
    by 1 / sqrt(number of residual branches), so that a deep network's activations stay bounded when
    normalisation does not act, as with unset batch statistics.

    Args:
        graph: The graph that the parameter belongs to.
        spec: The parameter.
        recipe: What the decoder made; may carry a batch axis.
    """
    rectified, residual = magnitude_facts(graph)
    factor = residual.get(spec.node, 1.0)
    beta = 2.0 if rectified[spec.node] else 1.0
    if spec.role in _MATRICES:
        return _sized(recipe, math.sqrt(beta / max(spec.fan_in, 1)) * factor)
    if spec.role in _FACTORS:
        size = {"magnitude": math.sqrt(beta), "slope": 0.25}.get(spec.role, 1.0)
        keeps = spec.role in ("gain", "scale")
        return _squashed(recipe, spec.role, size * factor if keeps else size)
    if spec.role in ("bias", "recurrent_bias"):
        return _squashed(recipe, spec.role, 0.5)
    return _sized(recipe, _SMALL)


def _sized(recipe: Recipe, size: float) -> Recipe:
    """Scale a recipe to a root mean square of `size`, times the decoder's bounded say."""
    raw = mean_square(recipe).clamp_min(1e-12).sqrt()
    say = SPREAD ** torch.tanh(raw.log() / math.log(SPREAD))
    return scaled(recipe, say * size / raw)


def _squashed(recipe: Recipe, role: str, size: float) -> Recipe:
    values: Tensor = expand(recipe)
    if role.endswith("bias"):
        return Dense(size * torch.tanh(values / 5.0), recipe.layout)
    return Dense(size * 2.0 * torch.sigmoid(values / 2.0), recipe.layout)


def batch_entry(recipe: Recipe, index: int) -> Recipe:
    """Return the recipe of one condition of a batch."""
    fields = {
        f.name: getattr(recipe, f.name)[index]
        for f in dataclasses.fields(recipe)
        if f.name != "layout"
    }
    return dataclasses.replace(recipe, **fields)
