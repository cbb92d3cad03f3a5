r"""Magnitude: how large emitted parameters are. One rule for each role.

With v the decoder's raw values, s their root mean square (exact; of a low-rank product without
expanding it), and g = spread ** tanh(log_spread s), which lies between 1/spread and spread and is 1
where s = 1, so that the decoder keeps a bounded say:

| role | result |
|---|---|
| weight, recurrent weight, direction, lora_a | (v / s) g sqrt(beta / fan_in) |
| lora_b and others with a fan-in | (v / s) g sqrt(1 / fan_in) / 10 |
| table, position, token, others | (v / s) g 0.02, with spread ** 3 for spread |
| gain, scale | 2 sigmoid(v / 2) |
| slope | 0.25 * 2 sigmoid(v / 2) |
| magnitude (weight norm's g) | 2 sigmoid(v / 2) times the norm that the weight's rule asks for |
| bias, recurrent bias | tanh(v / 5) |

beta is 2 where a ReLU-like nonlinearity follows (see `ghn.graphs.structure`), 1/2 in the layer that
emits the model's output, so that untrained logits are not confident, and else 1. Tables,
positions and tokens have 0.02 as in timm and transformers; they meet activations of size 1, so a
wider range is theirs to reach. All parameters of an operator that ends a residual branch are
multiplied by 1 / sqrt(number of residual branches): activations then stay bounded at any depth,
also where no batch statistics normalise them.

Channels that share codes are not independent: C of them carry signals of r dimensions, the size of
the codes, each C / r times over, and what adds up that often grows with C / r, not its square root.
Of a rectified signal half the energy is of this kind. So weights that read channels by codes of r
numbers are divided by sqrt((1 + max(C / r, 1)) / 2), and tiled weights, whose channels repeat
exactly, by sqrt(max(C / r, 1)) for a block of r channels.

Source: fan-in scaling, sigmoid gains and small biases after Knyazev et al. 2021 and 2023 (GHN-2,
arXiv 2110.13100; GHN-3, arXiv 2303.04143). Exact sizes, the bounded say and the factor on residual
branches are ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ghn.graphs import ParamGraph, ParamSpec
from ghn.graphs.structure import followed_by_relu, residual_branch_ends
from ghn.kernels import Dense, LowRank, Recipe, Tiled, expand, mean_square, scaled

__all__ = ["Rule", "apply_magnitude", "magnitude_rules"]

K = TypeVar("K", bound=Hashable)

SMALL = 0.02
WIDE = 3
ADAPTER = 0.1
HEAD = 0.5
_MATRICES = frozenset({"weight", "recurrent_weight", "direction", "lora_a"})
_FACTORS = frozenset({"gain", "scale", "slope", "magnitude"})


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What one parameter's magnitude is made of.

    Attributes:
        kind: `"sized"`: a root mean square of `size` times g; `"factor"`: `size` * 2 sigmoid(v/2);
            `"shift"`: `size` * tanh(v / 5).
        size: See `kind`.
        say: Exponent of the spread in g.
        reads_channels: Whether columns are channels that another parameter's rows made.
    """

    kind: Literal["sized", "factor", "shift"]
    size: float
    say: int = 1
    reads_channels: bool = False


def magnitude_rules(graph: ParamGraph) -> dict[str, Rule]:
    """Return the rule of every parameter of a graph; computed once for each graph.

    Source:
        See the module's docstring.
    """
    if "magnitude" not in graph.memo:
        relu = followed_by_relu(graph)
        branches = residual_branch_ends(graph)
        directions = {s.node: s for s in graph.specs.values() if s.role == "direction"}
        rules = {}
        for name, spec in graph.specs.items():
            beta = HEAD if spec.head else 2.0 if spec.node in relu else 1.0
            rule = _rule(spec, beta, directions.get(spec.node))
            factor = 1.0 / math.sqrt(branches.get(spec.node, 1))
            rules[name] = dataclasses.replace(rule, size=rule.size * factor)
        graph.memo["magnitude"] = rules
    return graph.memo["magnitude"]


def _rule(spec: ParamSpec, beta: float, direction: ParamSpec | None) -> Rule:
    if spec.role in _MATRICES:
        size = math.sqrt(beta / max(spec.fan_in, 1))
        return Rule("sized", size, reads_channels="i" in spec.axes and not spec.stem)
    if spec.role in _FACTORS:
        size = 0.25 if spec.role == "slope" else 1.0
        if spec.role == "magnitude" and direction is not None:
            # g is the norm of the elements of v that share it.
            shared = direction.numel / max(spec.numel, 1)
            size = math.sqrt(shared * beta / max(direction.fan_in, 1))
        return Rule("factor", size)
    if spec.role in ("bias", "recurrent_bias"):
        return Rule("shift", 1.0)
    if spec.fan_in:
        return Rule("sized", ADAPTER * math.sqrt(1.0 / spec.fan_in))
    return Rule("sized", SMALL, WIDE)


def apply_magnitude(
    recipes: Mapping[K, Recipe],
    rules: Mapping[K, Sequence[Rule]],
    spread: float = 2.0,
    shared_codes: bool = False,
) -> dict[K, Recipe]:
    """Return recipes with the magnitudes that their rules ask for; differentiable.

    Args:
        recipes: What a decoder made, each with one batch axis, whose entries are parameters.
        rules: A rule for each entry of each recipe, all of one kind.
        spread: Largest factor by which the decoder may deviate from the rule; above 1.
        shared_codes: Whether rows and columns of all parameters speak of the same channels.
    """
    result: dict[K, Recipe] = dict(recipes)
    sized = [k for k in recipes if rules[k][0].kind == "sized" and _numel(recipes[k])]
    if sized:
        squares = torch.cat([mean_square(recipes[k]) for k in sized])
        factors = _factors(squares, [rule for k in sized for rule in rules[k]], spread)
        if shared_codes:
            excess = [_excess(recipes[k], rule) for k in sized for rule in rules[k]]
            factors = factors / squares.new_tensor(excess).sqrt()
        for key, factor in zip(sized, factors.split([len(rules[k]) for k in sized]), strict=True):
            result[key] = scaled(recipes[key], factor)
    for key, recipe in recipes.items():
        if rules[key][0].kind != "sized":
            result[key] = Dense(_squash(expand(recipe), rules[key]), recipe.layout)
    return result


def _factors(squares: Float[Tensor, " P"], rules: list[Rule], spread: float) -> Float[Tensor, " P"]:
    """Return what turns raw values into values of the size that each rule asks for."""
    size, say = squares.new_tensor([(r.size, r.say * math.log(spread)) for r in rules]).T
    # A tensor of zeros stays one; the floor only keeps its logarithm finite.
    log_raw = 0.5 * squares.clamp_min(1e-24).log()
    return size * torch.exp(say * torch.tanh(log_raw / say) - log_raw)


def _squash(values: Float[Tensor, "n ..."], rules: Sequence[Rule]) -> Float[Tensor, "n ..."]:
    size = values.new_tensor([rule.size for rule in rules])
    size = size.reshape(-1, *[1] * (values.ndim - 1))
    if rules[0].kind == "factor":
        return 2.0 * size * torch.sigmoid(values / 2.0)
    return size * torch.tanh(values / 5.0)


def _excess(recipe: Recipe, rule: Rule) -> float:
    """Return how much variance channels that share codes add beyond that of independent ones."""
    if not rule.reads_channels:
        return 1.0
    if isinstance(recipe, Tiled):
        return max(recipe.layout.cols / recipe.block.shape[-2], 1.0)
    if isinstance(recipe, LowRank):
        return (1.0 + max(recipe.layout.cols / recipe.left.shape[-1], 1.0)) / 2.0
    return 1.0


def _numel(recipe: Recipe) -> int:
    return math.prod(recipe.layout.shape)
