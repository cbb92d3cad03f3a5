import copy
import dataclasses
import math

import pytest
import timm
import torch
from torch import nn

from ghn.engine import GHN
from ghn.engine.magnitude import Rule, apply_magnitude, magnitude_rules
from ghn.graphs import Node, ParamGraph, ParamSpec, trace
from ghn.kernels import Dense, Layout, LowRank, Tiled, entry, expand, mean_square


def low_rank(shape, axes, size=1.0, seed=0, rank=5):
    """Random factors whose product has a root mean square of about `size`."""
    layout = Layout(shape, axes)
    draws = torch.Generator().manual_seed(seed)
    left = torch.randn(layout.rows * layout.kernel, rank, generator=draws)
    right = torch.randn(rank, layout.cols, generator=draws)
    return LowRank(left * size / rank**0.5, right, layout)


def graph_with(role, axes, shape, after=(), op="conv", **facts):
    """One operator with one parameter, and what follows it."""
    ops = ("input", op, *after, "output")
    nodes = [Node(o, parameters=(("p", role),) if i == 1 else ()) for i, o in enumerate(ops)]
    edges = [(i, i + 1) for i in range(len(ops) - 1)]
    return ParamGraph(nodes, edges, {"p": ParamSpec("p", shape, "float32", 1, role, axes, **facts)})


def applied(recipes, rules, **settings):
    """Give single recipes the batch axis that stacks have, and take it away again."""
    stacks = {
        name: dataclasses.replace(
            recipe,
            **{
                field.name: getattr(recipe, field.name)[None]
                for field in dataclasses.fields(recipe)
                if field.name != "layout"
            },
        )
        for name, recipe in recipes.items()
    }
    sized = apply_magnitude(stacks, {name: [rules[name]] for name in stacks}, **settings)
    return {name: entry(stack, 0) for name, stack in sized.items()}


def magnitude_of(graph, recipe, **settings):
    return applied({"p": recipe}, magnitude_rules(graph), **settings)["p"]


def say(raw, spread=2.0):
    """The decoder's bounded say, straight from the docstring."""
    return spread ** math.tanh(math.log(raw, spread))


@pytest.mark.parametrize(
    ("shape", "axes", "fan_in"),
    [
        ((16, 8, 3, 3), "oikk", 72),
        ((16, 1, 5, 5), "oikk", 25),
        ((16, 8), "oi", 8),
        ((8, 24), "io", 8),
        ((8, 6, 4, 4), "iokk", 32),
        ((3, 16, 8), "eoi", 8),
    ],
)
@pytest.mark.parametrize("raw", [0.05, 1.0, 30.0])
def test_weights_get_exactly_the_root_mean_square_of_their_rule(shape, axes, fan_in, raw):
    graph = graph_with("weight", axes, shape, fan_in=fan_in)
    recipe = low_rank(shape, axes, raw)

    values = expand(magnitude_of(graph, recipe))

    actual_raw = expand(recipe).square().mean().sqrt().item()
    expected = math.sqrt(1.0 / fan_in) * say(actual_raw)
    torch.testing.assert_close(values.square().mean().sqrt().item(), expected, rtol=1e-4, atol=0)
    assert 0.5 <= values.square().mean().sqrt() * math.sqrt(fan_in) <= 2.0


def test_beta_doubles_the_variance_before_a_nonlinearity_and_heads_stay_small():
    shape, axes, facts = (16, 8), "oi", {"fan_in": 8, "op": "linear"}
    plain = magnitude_rules(graph_with("weight", axes, shape, **facts))["p"]
    before_relu = magnitude_rules(graph_with("weight", axes, shape, ("gelu",), **facts))["p"]
    head = magnitude_rules(graph_with("weight", axes, shape, head=True, **facts))["p"]

    assert plain == Rule("sized", 8**-0.5, reads_channels=True)
    assert before_relu.size == pytest.approx(plain.size * math.sqrt(2))
    assert head.size == pytest.approx(plain.size / math.sqrt(2))


def test_a_conv1d_of_transformers_has_its_fan_in_on_the_first_axis():
    from transformers.pytorch_utils import Conv1D

    graph = trace(nn.Sequential(Conv1D(300, 20)), torch.empty(1, 20))

    rule = magnitude_rules(graph)["0.weight"]
    assert rule.size == pytest.approx(math.sqrt(0.5 / 20))  # it emits the output


@pytest.mark.parametrize(
    ("role", "low", "high"), [("gain", 0, 2), ("scale", 0, 2), ("slope", 0, 0.5)]
)
def test_factors_are_positive_bounded_and_neutral_at_zero(role, low, high):
    graph = graph_with(role, "o", (5,), op="batch_norm")
    layout = Layout((5,), "o")
    raw = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0])

    values = magnitude_of(graph, Dense(raw, layout)).values

    torch.testing.assert_close(values, high * torch.sigmoid(raw / 2))
    assert values[2] == high / 2
    assert values.min() >= low


@pytest.mark.parametrize("role", ["bias", "recurrent_bias"])
def test_biases_are_small_and_bounded(role):
    graph = graph_with(role, "o", (3,), op="linear")

    values = magnitude_of(graph, Dense(torch.tensor([0.0, 1.0, 99.0]), Layout((3,), "o"))).values

    torch.testing.assert_close(values, torch.tensor([0.0, math.tanh(0.2), 1.0]))


@pytest.mark.parametrize("role", ["table", "position", "token", "other"])
def test_tables_and_positions_have_two_hundredths_and_a_wider_say(role):
    graph = graph_with(role, "to", (9, 8), op="add")

    for raw in (1.0, 4.0):
        recipe = low_rank((9, 8), "to", raw)
        actual_raw = mean_square(recipe).sqrt().item()
        size = mean_square(magnitude_of(graph, recipe)).sqrt().item()
        assert size == pytest.approx(0.02 * say(actual_raw, 8.0), rel=1e-4)


def test_weight_norm_with_emitted_parts_has_the_size_of_a_plain_weight():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 64, 3, bias=False))
    graph = trace(nn.Sequential(conv, nn.ReLU(), nn.Conv2d(64, 2, 1)), torch.empty(1, 8, 9, 9))
    rules = magnitude_rules(graph)
    parts = {s.role: n for n, s in graph.specs.items() if s.role in ("magnitude", "direction")}
    layouts = {r: Layout(graph.specs[n].shape, graph.specs[n].axes) for r, n in parts.items()}
    raw = {
        parts["magnitude"]: Dense(torch.zeros(layouts["magnitude"].shape), layouts["magnitude"]),
        parts["direction"]: low_rank(layouts["direction"].shape, layouts["direction"].axes),
    }

    v = expand(applied(raw, rules)[parts["direction"]])
    g = expand(applied(raw, rules)[parts["magnitude"]])

    weight = g * v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    assert weight.square().mean().item() == pytest.approx(2.0 / 72, rel=1e-4)


def test_the_end_of_a_residual_branch_shrinks_with_the_number_of_branches():
    def chain(depth):
        blocks = [Residual(nn.Sequential(nn.Linear(6, 6, bias=False))) for _ in range(depth)]
        return trace(nn.Sequential(nn.Linear(3, 6), *blocks, nn.Linear(6, 2)), torch.empty(1, 3))

    shallow, deep = magnitude_rules(chain(1)), magnitude_rules(chain(16))

    assert deep["16.branch.0.weight"].size == pytest.approx(shallow["1.branch.0.weight"].size / 4)
    assert deep["0.weight"] == shallow["0.weight"]


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


def test_tiles_that_repeat_along_columns_do_not_amplify_repeating_channels():
    layout = Layout((256, 256), "oi")
    graph = graph_with("weight", "oi", (256, 256), op="linear", fan_in=256)
    draws = torch.Generator().manual_seed(0)
    channels = torch.randn(512, 16, generator=draws).repeat(1, 16)

    block = torch.randn(16, 16, 1, generator=draws)
    weight = expand(magnitude_of(graph, Tiled(block, layout), shared_codes=True))

    assert 0.5 < (channels @ weight.T).std() < 2.0
    assert magnitude_of(graph, Tiled(block, layout)).block.abs().max() > 3 * weight.abs().max()


def test_channels_that_share_low_rank_codes_do_not_amplify_along_a_chain_of_layers():
    torch.manual_seed(0)
    codes = torch.randn(512, 8)
    layout = Layout((512, 512), "oi")
    graph = graph_with("weight", "oi", (512, 512), ("relu",), op="linear", fan_in=512)
    signal = torch.relu(torch.randn(64, 8) @ codes.T)
    start = signal.square().mean()

    for _ in range(10):
        recipe = LowRank(codes, torch.randn(8, 8) / 8 @ codes.T, layout)
        weight = expand(magnitude_of(graph, recipe, shared_codes=True))
        signal = torch.relu(signal @ weight.T)

    assert 0.01 < signal.square().mean() / start < 100  # without the rule it is 32 ** 10


def test_tensors_of_zeros_stay_zero_with_finite_gradients():
    layout = Layout((4, 3), "oi")
    left = torch.zeros(4, 2, requires_grad=True)
    graph = graph_with("weight", "oi", (4, 3), fan_in=3)

    recipe = magnitude_of(graph, LowRank(left, torch.ones(2, 3), layout))
    expand(recipe).sum().backward()

    assert not expand(recipe).any()
    assert left.grad.isfinite().all()


def test_size_is_set_for_each_entry_of_a_stack():
    graph = graph_with("weight", "oi", (6, 5), fan_in=5)
    one, two = low_rank((6, 5), "oi", seed=1), low_rank((6, 5), "oi", 9.0, seed=2)
    both = LowRank(
        torch.stack([one.left, two.left]), torch.stack([one.right, two.right]), one.layout
    )
    rules = magnitude_rules(graph)["p"]

    values = expand(apply_magnitude({"p": both}, {"p": [rules, rules]})["p"])

    torch.testing.assert_close(values[0], expand(magnitude_of(graph, one)))
    torch.testing.assert_close(values[1], expand(magnitude_of(graph, two)))


def test_the_say_is_bounded_by_the_spread_and_passes_gradients():
    graph = graph_with("weight", "oi", (6, 5), fan_in=5)
    recipe = low_rank((6, 5), "oi", 1e4)
    right = recipe.right.requires_grad_()

    values = expand(magnitude_of(graph, dataclasses.replace(recipe, right=right), spread=3.0))
    values.square().mean().backward()

    assert values.square().mean().sqrt().item() == pytest.approx(3.0 / 5**0.5, rel=1e-3)
    assert right.grad.isfinite().all()


FAMILIES = (
    "resnet101",
    "resnetv2_50",
    "mobilenetv3_small_050",
    "regnetx_002",
    "densenet121",
    "vgg11_bn",
    "ghostnet_050",
    "resnext26ts",
    "cspdarknet53",
    "efficientnet_lite0",
)


def layer_stds(model, images):
    """Standard deviation of the output of every module with parameters of its own."""
    found = {}

    def note(name):
        def hook(module, inputs, output):
            found[name] = output.std().item()

        return hook

    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(note(name))
    with torch.no_grad():
        logits = model(images)
    return found, logits


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_activations_of_batch_normalised_networks_stay_near_the_default(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)
    images = torch.randn(8, 3, 64, 64)
    default, _ = layer_stds(copy.deepcopy(model).train(), images)

    with torch.no_grad():
        emitted = GHN()(trace(model))

    assert emitted.keys() == dict(model.named_parameters()).keys()
    model.load_state_dict(emitted, strict=False)
    predicted, _ = layer_stds(copy.deepcopy(model).train(), images)
    _, logits = layer_stds(model.eval(), images)

    ratios = {n: predicted[n] / default[n] for n in default if default[n] > 0}
    outside = {n: round(r, 2) for n, r in ratios.items() if not 0.1 < r < 10}
    assert outside == {}
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0
