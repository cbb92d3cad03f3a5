"""Sizes of a model's own initialization, followed where they are far from what the rules say.

No rule of structure can know that a constructor starts a head at 4e-4 or shrinks weights with
depth. A model that has values shows it: `follow_own_sizes` multiplies a prediction by the power of
two that brings it nearest to the size of the values it replaces.

How large a weight is to be, for a given size of the model's own, depends on what it reads. Channels
of a prediction share codes of r numbers, so under weights of one size C of them add up sqrt(C / r)
times as high as independent ones, behind a rectifier (C / r)^0.4 times. Trained predictions are
louder than that by 1.8 and 1.5, at the end of residual branches not at all. Attention does not
average out what positions have in common, in networks without batch norms another 4. Squeezed
channels, and averages of a signal that is not rectified, are larger by 2.5. The wanted size is the
own one divided by all of this. Layers that squeeze such averages are lowered only: how small
averages of random signals are says little about trained ones.

Predictions are trained at the sizes of the rules. They are left there unless the wanted size is
less than 2^-0.5 or more than 2^1.5 times the rule's.

A bias is lowered as much as the weight beside it, unless the model's own is larger. Left to the
rule are other biases, weight norm's magnitudes, whatever has fewer than 16 elements or is on the
meta device, and values that say nothing: all 0, or, of factors, all 1.

Values that are this prediction already, times a number, keep the nearest power of two of that
number: to predict twice gives the same bits as once.

Source: ours; the constants are measured on timm's defaults under a trained hypernetwork.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ghn.engine.magnitude import BIASES, FACTORS, MATRICES, magnitude_rules
from ghn.graphs import ParamGraph, ParamSpec
from ghn.graphs.structure import residual_branch_ends, signal_facts
from ghn.kernels import Recipe, leading_rows, mean_square, scaled

__all__ = ["follow_own_sizes"]

FEWEST = 16
LOOKED_AT = 64  # elements that tell whether values are a prediction
SAME = 1 - 1e-3  # a cosine; types of 16 bits round values
# By what a weight reads: how much louder trained predictions are, and the exponent of C / r.
ALIKE = {"other": (1.0, 0.0), "aligned": (1.8, 0.5), "mixed": (1.5, 0.4)}
EXPONENTS_OF_RULES = {"other": 0.0, "aligned": 0.5, "mixed": 0.25}
LOWERED_BY, RAISED_BY = -0.5, 1.5  # powers of two
ATTENDED, SQUEEZED = 4.0, 2.5
LEFT_TO_RULES = BIASES | {"magnitude"}


def follow_own_sizes(
    recipes: Mapping[str, Recipe],
    values: Mapping[str, Tensor],
    graph: ParamGraph,
    excess: Mapping[str, float],
) -> tuple[dict[str, Recipe], dict[str, float]]:
    """Return recipes at the sizes of the values they replace, and the factors that are not 1.

    Args:
        recipes: Final predictions by parameter name.
        values: The model's own parameters by name, some of them perhaps on the meta device.
        graph: The graph that the predictions are for.
        excess: C / r of each prediction; see `ghn.engine.magnitude.channel_excess`.
    """
    result, factors = dict(recipes), {}
    for name, recipe in recipes.items():
        spec, own = graph.specs[name], values[name].detach()
        if own.is_meta or own.numel() < FEWEST or spec.role in LEFT_TO_RULES:
            continue
        size = _size(own, spec)
        if not 0 < size < math.inf:
            continue
        multiple = _multiple_of_prediction(own, recipe)
        if multiple is None:
            multiple = _deviation(size, excess[name], spec, graph)
            if LOWERED_BY < math.log2(multiple) < RAISED_BY:
                continue
        if power := round(math.log2(multiple)):
            factors[name] = 2.0**power
            result[name] = scaled(recipe, factors[name])
    lowered = {graph.specs[n].node: f for n, f in factors.items() if f < 1}
    for name, recipe in recipes.items():
        spec = graph.specs[name]
        if spec.role in BIASES and spec.node in lowered and _is_smaller(values[name], recipe):
            factors[name] = lowered[spec.node]
            result[name] = scaled(recipe, factors[name])
    return result, factors


def _size(own: Tensor, spec: ParamSpec) -> float:
    """Return a root mean square, of factors the mean size; 0 if the values say nothing."""
    if spec.role not in FACTORS:
        norm = torch.linalg.vector_norm(own, dtype=torch.promote_types(own.dtype, torch.float32))
        return norm.item() / math.sqrt(own.numel())
    sizes = own.float().abs()
    return 0.0 if bool((sizes == 1).all()) else sizes.mean().item()


def _is_smaller(own: Tensor, recipe: Recipe) -> bool:
    """Whether values are smaller than a prediction; the margin is for values that were it."""
    if own.is_meta:
        return False
    return own.float().square().mean().sqrt().item() < 0.99 * mean_square(recipe).sqrt().item()


def _multiple_of_prediction(own: Tensor, recipe: Recipe) -> float | None:
    """Return by how much values are larger than a prediction that they are a multiple of."""
    layout = recipe.layout
    count = min(layout.rows, -(-LOOKED_AT // max(layout.cols * layout.kernel, 1)))
    new = leading_rows(recipe, count).double().flatten()
    old = layout.from_storage(own)[:count].to(new).flatten()
    norms = new.norm() * old.norm()
    if not norms > 0 or new @ old < SAME * norms:
        return None
    return (old.norm() / new.norm()).item()


def _deviation(size: float, excess: float, spec: ParamSpec, graph: ParamGraph) -> float:
    """Return by how much the wanted size is above the one that the rules give a prediction."""
    rule, facts = magnitude_rules(graph)[spec.name], signal_facts(graph)
    louder, exponent = ALIKE[rule.reads]
    if spec.node in residual_branch_ends(graph):
        louder = 1.0
    pooled = "" if spec.head else facts.pooled.get(spec.node, "")
    if spec.role in MATRICES and spec.node in facts.attended and not facts.batch_norms:
        louder *= ATTENDED
    if pooled == "plain" or (pooled and not _squeezes(spec)):
        louder *= SQUEEZED
    wanted = size / (louder * excess**exponent)
    deviation = wanted * excess ** EXPONENTS_OF_RULES[rule.reads] / rule.size
    return min(deviation, 1.0) if pooled == "plain" and _squeezes(spec) else deviation


def _squeezes(spec: ParamSpec) -> bool:
    return math.prod(spec.sizes("o")) < math.prod(spec.sizes("i"))
