r"""Magnitude: how large emitted parameters are. One rule for each role, in three modes.

With v the decoder's raw values, s their root mean square (exact; of a low-rank product without
expanding it), and g = spread ** tanh(log_spread s), which lies between 1/spread and spread and is 1
where s = 1, so that the decoder keeps a bounded say:

| role | `"bounded"` | `"plain"` |
|---|---|---|
| weight, recurrent weight, direction, lora_a | (v / s) g size, see below | v size |
| lora_b and others with a fan-in | (v / s) g sqrt(1 / fan_in) / 10 | v sqrt(1 / fan_in) / 10 |
| table, position, token, others | (v / s) g 0.02, spread ** 5 for spread | 0.02 v |
| bias, recurrent bias | (v / s) g 0.015; in squeeze-excite 0.035 and 0.12 | v times the same |
| bias of a normalisation | (v / s) g 0.05 | 0.05 v |
| gain, scale | 2 sigmoid(v / 2) | 1 + v / 10 |
| scale of a standardised weight, C columns | gain times 0.6 min(1, sqrt(32 / C)) | as gain |
| layer scale: a scale that ends a residual branch | 3e-6 * 2 sigmoid(v / 2) | 3e-6 (1 + v / 10) |
| slope | 0.25 * 2 sigmoid(v / 2) | 0.25 (1 + v / 10) |
| magnitude (weight norm's g), times the norm that its weight is to have | as gain | as gain |

The bounded mode is for hypernetworks that predict where training starts. The plain one is for those
whose emissions are trained to the end: weights may then have any size, and every number changes in
proportion to what the decoder emits. Changes to a base (`ghn.engine.base`) are as in the plain mode
without the ones of gains and the like, which are in the base.
The third mode, `"unit"`, leaves what the decoder emits as it is, for methods that know the
network's size: its weights are there.

Tables, positions and tokens have 0.02 as in timm and transformers. They meet activations of size 1,
so a wider range is theirs to reach. What biases add is the same everywhere: averages over positions
(pools, attention) keep all of it, and little of the signal, so they stay small.

**Weights** have the size that libraries give them, since a network trains from there. With m the
geometric mean of fan-in and fan-out, and the first that fits:

- the layer that emits the output: sqrt(1 / (4 fan_in)), so that untrained logits are not confident,
  and spread ** 2 for spread;
- the first layer, on the input: sqrt(1 / (6 fan_in));
- layers of averages over all positions (squeeze-excite): squeezing ones sqrt(3 / m) where what was
  averaged is rectified, and sqrt(11 / (200 m)) elsewhere, for trained signals have far larger
  averages than random ones; spreading ones sqrt(9 / (100 m)); g is 1 here;
- layers before a batch or group norm, which undoes their size in training: sqrt(18 / (25 m)), so
  that a signal also gets through before statistics are known; depthwise ones sqrt(3 / m); g is 1
  here;
- other depthwise convolutions: sqrt(2 / (5 fan_in)), in networks of layer norms alone
  sqrt(1 / (125 fan_in)), unless they are a whole residual branch;
- linear layers, and convolutions like them (pointwise, ungrouped): sqrt(1 / (5 fan_in)), in
  networks of layer norms alone, and of linear layers wherever there is a layer norm, its geometric
  mean with 0.01; where they read averages by attention, 0.4 of that in networks without batch
  norms, since what positions have in common passes an average undiminished, and of convolutions
  in networks with batch norms 1.5 times that;
- other convolutions: sqrt(1 / (2 m)), in networks of layer norms alone sqrt(1 / (5 m)).

Parameters of an operator that ends a residual branch, biases of layers excepted, are multiplied by
1 / sqrt(number of residual branches), 1/3 at least for gains and 1 / sqrt(14) for weights:
activations then stay bounded at any depth, also where no batch statistics normalise them. Gains of
layer norms that end branches go down to 2 / (number of branches), 0.15 at least: such networks
start without their branches, and branches of a trained prediction add up. Weights that a norm
precedes in their branch need none of it: convolutions in networks with layer norms, and linear
layers in those with more of them than batch norms. Weights that mix channels before a layer scale
are multiplied by 0.5, since networks that have them also tend to start their branches small. Group
norms of one group count as layer norms here.

Channels that share codes are not independent: C of them carry signals of r dimensions, the size of
the codes, each C / r times over. Straight from a layer, with nothing but normalisations, sums and
averages between, all of a signal is of this kind; weights that read it by codes of r numbers are
divided by sqrt(C / r). A rectifier or a product of channels breaks some of it up: by (C / r)^(1/4)
then. Weights that read something else than the channels of the layer before, such as positions, are
left as they are. Tiled weights, whose channels repeat exactly, are divided by sqrt(C / r) for a
block of r channels in both cases.

Source: fan-in scaling, sigmoid gains and small biases after Knyazev et al. 2021 and 2023 (GHN-2,
arXiv 2110.13100; GHN-3, arXiv 2303.04143). Exact sizes, the bounded say, the factors on residual
branches and on shared codes are ours; sizes by operator are measured on timm's defaults.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ghn.graphs import Node, ParamGraph, ParamSpec
from ghn.graphs.structure import NORMS, SignalFacts, residual_branch_ends, signal_facts
from ghn.kernels import Dense, LowRank, Recipe, Tiled, expand, mean_square, scaled

__all__ = [
    "BIASES",
    "FACTORS",
    "MATRICES",
    "MODES",
    "Rule",
    "apply_magnitude",
    "magnitude_rules",
]

K = TypeVar("K", bound=Hashable)

MODES = ("bounded", "plain", "unit")
SMALL = 0.015
TABLE = 0.02
WIDE, HEAD = 5, 2  # exponents of the spread
ATTENDED, ATTENDED_CONV = 0.4, 1.5
ADAPTER = 0.1
NORM_BIAS = 0.05
DEPTHWISE = 0.4
SQUEEZED_BIAS, SPREAD_BIAS = 0.035, 0.12
LAYER_SCALE = 3e-6
CODES, STANDARDISED = 32, 0.6  # a usual size of codes; for weights of so many columns
AROUND_ONE = 0.1  # of what a plain emission adds to a factor
# With more, a last gain would leave a branch next to nothing; with less, signals grow with depth.
MOST_BRANCHES = {"gain": 9, "weight": 14}
LEAST_GAIN = 0.15
BEFORE_LAYER_SCALE = 0.5
MATRICES = frozenset({"weight", "recurrent_weight", "direction", "lora_a"})
FACTORS = frozenset({"gain", "scale", "slope", "magnitude"})
BIASES = frozenset({"bias", "recurrent_bias"})


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """What one parameter's magnitude is made of.

    Attributes:
        kind: `"sized"`: a root mean square of `size` times g; `"factor"`: `size` * 2 sigmoid(v/2).
        size: See `kind`.
        say: Exponent of the spread in g; 0 leaves the decoder none.
        reads: What columns are: not channels that another parameter's rows made (`"other"`), such
            channels straight from a layer or averaged (`"aligned"`), or with a rectifier or the
            like between (`"mixed"`).
    """

    kind: Literal["sized", "factor"]
    size: float
    say: int = 1
    reads: Literal["other", "aligned", "mixed"] = "other"


def magnitude_rules(graph: ParamGraph) -> dict[str, Rule]:
    """Return the rule of every parameter of a graph; computed once for each graph.

    Source:
        See the module's docstring.
    """
    if "magnitude" not in graph.memo:
        facts = signal_facts(graph)
        branches = residual_branch_ends(graph)
        before_scale = _before_layer_scales(graph, branches)
        directions = {s.node: s for s in graph.specs.values() if s.role == "direction"}
        weights = {s.node: s for s in graph.specs.values() if s.role == "weight"}
        spreading = {s.node for s in graph.specs.values() if s.role == "weight" and _spreads(s)}
        rules = {}
        for name, spec in graph.specs.items():
            node = graph.nodes[spec.node]
            size = weight_size(directions.get(spec.node, spec), node, facts)
            rule = _rule(spec, node, size, directions.get(spec.node), facts)
            if spec.role == "scale" and spec.node in weights and spec.numel > 1:
                rule = dataclasses.replace(rule, size=_standardised(weights[spec.node]))
            if spec.role in BIASES and spec.node in facts.pooled and not spec.head:
                rule = Rule("sized", SPREAD_BIAS if spec.node in spreading else SQUEEZED_BIAS)
            if spec.node in branches:
                rule = _at_branch_end(rule, spec, node, branches[spec.node], facts)
            elif spec.node in before_scale and spec.role in MATRICES:
                rule = dataclasses.replace(rule, size=BEFORE_LAYER_SCALE * rule.size)
            rules[name] = rule
        graph.memo["magnitude"] = rules
    return graph.memo["magnitude"]


def weight_size(spec: ParamSpec, node: Node, facts: SignalFacts) -> float:
    """Return the root mean square that the rule asks of a weight, for g = 1."""
    fan_in = max(spec.fan_in, 1)
    if spec.head:
        return math.sqrt(1 / (4 * fan_in))
    if spec.stem:
        return math.sqrt(1 / (6 * fan_in))
    rows, columns = _sides(spec)
    mean_fan = fan_in * math.sqrt(rows / columns)
    if pooled := facts.pooled.get(spec.node):
        if _spreads(spec):
            return math.sqrt(0.09 / mean_fan)
        return math.sqrt((3 if pooled == "rectified" else 0.055) / mean_fan)
    depthwise = node.op == "depthwise_conv"
    if spec.node in facts.renormed:
        return math.sqrt((3 if depthwise else 0.72) / mean_fan)
    if depthwise:
        return math.sqrt((0.008 if _like_transformers(node, facts) else DEPTHWISE) / fan_in)
    like_linear = math.prod(spec.sizes("k")) == node.attributes.get("groups", 1) == 1
    if node.op.startswith("conv") and not like_linear:
        return math.sqrt((0.2 if _like_transformers(node, facts) else 0.5) / mean_fan)
    return _linear_size(fan_in, node, facts) * _attended_share(spec, node, facts)


def _standardised(weight: ParamSpec) -> float:
    """Return the factor on a weight whose own size is undone by a standardisation."""
    _, columns = _sides(weight)
    return STANDARDISED * min(1.0, math.sqrt(CODES / columns))


def _linear_size(fan_in: int, node: Node, facts: SignalFacts) -> float:
    size = math.sqrt(1 / (5 * fan_in))
    return math.sqrt(0.01 * size) if _like_transformers(node, facts) else size


def _attended_share(spec: ParamSpec, node: Node, facts: SignalFacts) -> float:
    if spec.node not in facts.attended:
        return 1.0
    if facts.batch_norms:
        return 1.0 if node.op == "linear" else ATTENDED_CONV
    return ATTENDED


def _sides(spec: ParamSpec) -> tuple[int, int]:
    rows, columns = (max(math.prod(spec.sizes(axes)), 1) for axes in ("o", "i"))
    return rows, columns


def _spreads(spec: ParamSpec) -> bool:
    """Whether a layer emits as many channels as it reads, or more."""
    rows, columns = _sides(spec)
    return rows >= columns


def _like_transformers(node: Node, facts: SignalFacts) -> bool:
    """Whether a layer is one of a transformer, also where a network mixes such with others."""
    return facts.layer_norms > 0 and (node.op == "linear" or not facts.batch_norms)


def _rule(
    spec: ParamSpec, node: Node, size: float, direction: ParamSpec | None, facts: SignalFacts
) -> Rule:
    if spec.role in MATRICES:
        # Squeezed channels are so few and so much alike that training would make them far too loud.
        squeezed = spec.node in facts.pooled and not spec.head
        say = 0 if spec.node in facts.renormed or squeezed else 1
        if "i" not in spec.axes or spec.stem or spec.node in facts.crossed:
            return Rule("sized", size, say)
        if spec.head:
            return Rule("sized", size, HEAD, "aligned")
        return Rule("sized", size, say, "aligned" if spec.node in facts.aligned else "mixed")
    if spec.role in FACTORS:
        factor = 0.25 if spec.role == "slope" else 1.0
        if spec.role == "magnitude" and direction is not None:
            # g is the norm of the elements of v that share it.
            factor = size * math.sqrt(direction.numel / max(spec.numel, 1))
        return Rule("factor", factor)
    if spec.role in BIASES:
        return Rule("sized", NORM_BIAS if node.op in NORMS else SMALL)
    if spec.fan_in:
        return Rule("sized", ADAPTER * math.sqrt(1.0 / spec.fan_in))
    return Rule("sized", TABLE, WIDE)


def _before_layer_scales(graph: ParamGraph, branches: Mapping[int, int]) -> set[int]:
    """Return the operators that mix channels right before the layer scale of a branch."""
    scales = {index for index in branches if graph.nodes[index].op == "mul"}
    before = {start for start, end in graph.edges if end in scales}
    return {index for index in before if graph.nodes[index].op != "depthwise_conv"}


def _at_branch_end(
    rule: Rule, spec: ParamSpec, node: Node, branches: int, facts: SignalFacts
) -> Rule:
    if spec.role == "scale" and node.op == "mul" and spec.numel > 1:
        return dataclasses.replace(rule, size=LAYER_SCALE)
    if node.op == "depthwise_conv" and spec.role == "weight" and facts.layer_norms:
        return dataclasses.replace(rule, size=math.sqrt(DEPTHWISE / max(spec.fan_in, 1)))
    if spec.role in MATRICES and _enters_normalised(node, facts):
        return rule
    if spec.role in BIASES and node.op not in NORMS:
        return rule
    most = MOST_BRANCHES["weight" if spec.role in MATRICES else "gain"]
    factor = 1 / math.sqrt(min(branches, most))
    if spec.role == "gain" and node.op in ("layer_norm", "rms_norm"):
        factor = min(factor, max(2 / branches, LEAST_GAIN))
    return dataclasses.replace(rule, size=rule.size * factor)


def _enters_normalised(node: Node, facts: SignalFacts) -> bool:
    """Whether residual branches that end in a layer begin with a norm, as transformers' do."""
    if node.op == "linear":
        return facts.layer_norms > facts.batch_norms
    return facts.layer_norms > 0


def apply_magnitude(
    recipes: Mapping[K, Recipe],
    rules: Mapping[K, Sequence[Rule]],
    spread: float = 1.25,
    shared_codes: bool = False,
    mode: str = "bounded",
) -> dict[K, Recipe]:
    """Return recipes with the magnitudes that their rules ask for; differentiable.

    Args:
        recipes: What a decoder made, each with one batch axis, whose entries are parameters.
        rules: A rule for each entry of each recipe, all of one kind.
        spread: Largest factor by which the decoder may deviate from the rule; above 1.
        shared_codes: Whether rows and columns of all parameters speak of the same channels.
        mode: `"bounded"`, `"plain"`, `"unit"`, or `"change"` of a base; see the module's docstring.
    """
    if mode == "unit":
        return dict(recipes)
    if mode in ("plain", "change"):
        rest = float(mode == "plain")
        return {k: _plain(r, rules[k], shared_codes, rest) for k, r in recipes.items()}
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


def _plain(recipe: Recipe, rules: Sequence[Rule], shared_codes: bool, rest: float) -> Recipe:
    """Return raw values times constants; gains and the like are near `rest`."""
    if rules[0].kind == "factor":
        values = expand(recipe)
        size = _per_entry([rule.size for rule in rules], values)
        return Dense(size * (rest + AROUND_ONE * values), recipe.layout)
    excess = [_excess(recipe, rule) if shared_codes else 1.0 for rule in rules]
    sizes = [rule.size / math.sqrt(x) for rule, x in zip(rules, excess, strict=True)]
    if len(set(sizes)) == 1:
        return scaled(recipe, sizes[0])
    return scaled(recipe, torch.tensor(sizes).to(_any_tensor(recipe)))


def _any_tensor(recipe: Recipe) -> Tensor:
    if isinstance(recipe, Dense):
        return recipe.values
    return recipe.left if isinstance(recipe, LowRank) else recipe.block


def _factors(squares: Float[Tensor, " P"], rules: list[Rule], spread: float) -> Float[Tensor, " P"]:
    """Return what turns raw values into values of the size that each rule asks for."""
    limits = [(rule.size, max(rule.say * math.log(spread), 1e-6)) for rule in rules]
    size, say = squares.new_tensor(limits).T
    # A tensor of zeros stays one; the floor only keeps its logarithm finite.
    log_raw = 0.5 * squares.clamp_min(1e-24).log()
    return size * torch.exp(say * torch.tanh(log_raw / say) - log_raw)


def _squash(values: Float[Tensor, "n ..."], rules: Sequence[Rule]) -> Float[Tensor, "n ..."]:
    size = _per_entry([rule.size for rule in rules], values)
    return 2.0 * size * torch.sigmoid(values / 2.0)


def _per_entry(numbers: list[float], values: Float[Tensor, "n ..."]) -> Tensor:
    """Return a number for each entry, shaped to be multiplied with the values."""
    return values.new_tensor(numbers).reshape(-1, *[1] * (values.ndim - 1))


def _excess(recipe: Recipe, rule: Rule) -> float:
    """Return how much variance channels that share codes add beyond that of independent ones."""
    if rule.reads == "other":
        return 1.0
    excess = _channel_excess(recipe)
    return excess if rule.reads == "aligned" or isinstance(recipe, Tiled) else math.sqrt(excess)


def _channel_excess(recipe: Recipe) -> float:
    """Return C / r: how many channels there are for each dimension of what tells them apart."""
    if isinstance(recipe, Tiled):
        return max(recipe.layout.cols / recipe.block.shape[-2], 1.0)
    if isinstance(recipe, LowRank):
        return max(recipe.layout.cols / recipe.left.shape[-1], 1.0)
    return 1.0


def _numel(recipe: Recipe) -> int:
    return math.prod(recipe.layout.shape)
