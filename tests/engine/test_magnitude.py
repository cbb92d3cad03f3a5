import copy
import dataclasses
import math

import pytest
import timm
import torch
from engine_helpers import Residual
from torch import nn

from ghn.engine import GHN
from ghn.engine.magnitude import Rule, apply_magnitude, magnitude_rules
from ghn.graphs import Node, ParamGraph, ParamSpec, trace
from ghn.kernels import Dense, Layout, LowRank, Tiled, entry, expand, mean_square

IMAGES = torch.empty(1, 3, 8, 8)


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


def say(raw, spread=1.25):
    """The decoder's bounded say, straight from the docstring."""
    return spread ** math.tanh(math.log(raw, spread))


@pytest.mark.parametrize(
    ("op", "shape", "axes", "fan_in", "variance"),
    [
        ("conv", (16, 8, 3, 3), "oikk", 72, 0.5 / math.sqrt(72 * 144)),
        ("conv", (16, 8, 1, 1), "oikk", 8, 0.2 / 8),
        ("conv_transpose", (8, 6, 4, 4), "iokk", 32, 0.5 / math.sqrt(32 * 24)),
        ("depthwise_conv", (16, 1, 5, 5), "oikk", 25, 0.4 / 25),
        ("linear", (16, 8), "oi", 8, 0.2 / 8),
        ("linear", (8, 24), "io", 8, 0.2 / 8),
        ("matmul", (3, 16, 8), "eoi", 8, 0.2 / 8),
    ],
)
@pytest.mark.parametrize("raw", [0.05, 1.0, 30.0])
def test_weights_get_exactly_the_root_mean_square_of_their_rule(
    op, shape, axes, fan_in, variance, raw
):
    graph = graph_with("weight", axes, shape, op=op, fan_in=fan_in)
    recipe = low_rank(shape, axes, raw)

    values = expand(magnitude_of(graph, recipe))

    actual_raw = expand(recipe).square().mean().sqrt().item()
    expected = math.sqrt(variance) * say(actual_raw)
    actual = values.square().mean().sqrt().item()
    assert actual == pytest.approx(expected, rel=1e-4)
    assert 0.79 < actual / math.sqrt(variance) < 1.26


def test_norms_around_a_weight_decide_its_size():
    def size(*after, op="linear", **facts):
        axes, shape = ("oi", (16, 8)) if op == "linear" else ("oikk", (16, 8, 1, 1))
        return magnitude_rules(graph_with("weight", axes, shape, after, op, fan_in=8, **facts))["p"]

    assert size() == Rule("sized", 40**-0.5, reads="mixed")
    assert size("relu") == size()
    assert size("batch_norm").size == pytest.approx((0.72 / math.sqrt(8 * 16)) ** 0.5)
    assert (size("batch_norm").say, size("layer_norm").say) == (0, 1)
    assert size("layer_norm").size == pytest.approx(math.sqrt(0.01 * size().size))
    assert size(head=True).size == pytest.approx(32**-0.5)
    assert size(stem=True) == Rule("sized", 48**-0.5)
    assert size("batch_norm", op="depthwise_conv").size == pytest.approx(
        (3 / math.sqrt(8 * 16)) ** 0.5
    )
    assert size("layer_norm", op="depthwise_conv").size == pytest.approx(math.sqrt(0.008 / 8))
    assert size("group_norm") == size("batch_norm")
    assert size("concat", "batch_norm") == size("batch_norm")


def test_linear_layers_of_a_mixed_network_are_sized_as_in_transformers_and_convolutions_are_not():
    conv = nn.Sequential(nn.Conv2d(3, 16, 3), *[nn.BatchNorm2d(16) for _ in range(2)])
    tail = nn.Sequential(nn.Flatten(2), nn.LayerNorm(36), nn.Linear(36, 8), nn.Linear(8, 2))
    rules = magnitude_rules(
        trace(nn.Sequential(conv, nn.Conv2d(16, 16, 1), nn.ReLU(), tail), IMAGES)
    )

    assert rules["3.2.weight"].size == pytest.approx(math.sqrt(0.01 * (5 * 36) ** -0.5))
    assert rules["1.weight"].size == pytest.approx((5 * 16) ** -0.5)


def test_weights_that_read_averages_by_attention_are_smaller():
    class Attention(nn.Module):
        def __init__(self, fused):
            super().__init__()
            self.value, self.out, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.fused = fused

        def forward(self, x):
            v = self.value(x)
            if self.fused:
                mixed = nn.functional.scaled_dot_product_attention(v, v, v)
            else:
                mixed = torch.softmax(v @ v.transpose(-1, -2), -1) @ v
            return self.head(torch.relu(self.out(mixed)))

    for fused in (True, False):
        rules = magnitude_rules(trace(Attention(fused), torch.empty(1, 5, 6)))
        assert rules["out.weight"].size == pytest.approx(0.4 * 30**-0.5)
        assert rules["out.weight"].reads == "aligned"


def test_the_layer_that_emits_the_output_has_a_wider_say_and_reads_aligned_channels():
    rule = magnitude_rules(graph_with("weight", "oi", (16, 8), op="linear", fan_in=8, head=True))[
        "p"
    ]

    assert (rule.say, rule.reads) == (2, "aligned")


def test_weights_that_mix_positions_read_no_channel_codes():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Linear(5, 48), nn.LayerNorm(48)
            self.tokens, self.channels = nn.Linear(9, 12), nn.Linear(48, 2)

        def forward(self, x):
            mixed = self.tokens(self.norm(self.embed(x)).transpose(1, 2))
            return self.channels(mixed.transpose(1, 2))

    rules = magnitude_rules(trace(Mixer(), torch.empty(1, 9, 5)))

    assert rules["tokens.weight"].reads == "other"
    assert rules["channels.weight"].reads == "other"  # the head reads the mixed ones across, too


def test_squeezed_channels_meet_larger_weights_where_they_were_rectified():
    def squeeze(reads, *before):
        excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1)
        )
        model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), *before, excite)
        rules = magnitude_rules(trace(nn.Sequential(model, nn.Conv2d(16, 2, 1)), IMAGES))
        name = f"0.{2 + len(before)}"
        assert rules[f"{name}.1.weight"].reads == reads
        return rules[f"{name}.1.weight"].size, rules[f"{name}.3.weight"].size

    m = math.sqrt(4 * 16)

    assert squeeze("aligned") == pytest.approx((math.sqrt(0.055 / m), math.sqrt(0.09 / m)))
    assert squeeze("mixed", nn.ReLU()) == pytest.approx((math.sqrt(3 / m), math.sqrt(0.09 / m)))


def test_an_average_by_one_set_of_weights_squeezes_like_a_pool():
    class Context(nn.Module):
        """Global context (Cao et al. 2019): one query for all positions."""

        def __init__(self, queries):
            super().__init__()
            self.query, self.squeeze = nn.Conv2d(16, queries, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x):
            weights = self.query(x).flatten(2).softmax(-1)
            return self.squeeze((x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1))

    def size(queries):
        body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), Context(queries))
        graph = trace(nn.Sequential(body, nn.ReLU(), nn.Conv2d(4, 2, 1)), IMAGES)
        return magnitude_rules(graph)["0.3.squeeze.weight"].size

    assert size(1) == pytest.approx(math.sqrt(3 / math.sqrt(4 * 16)))
    assert size(2) == pytest.approx(1.5 * math.sqrt(1 / (5 * 16)))


@pytest.mark.parametrize("width", [16, 128])
def test_gains_of_standardised_weights_make_up_for_channels_that_share_codes(width):
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, width, 1, 1))
            self.gain = nn.Parameter(torch.ones(4, 1, 1, 1))

        def forward(self, x):
            mean, variance = self.weight.mean(1, True), self.weight.var(1, keepdim=True)
            weight = self.gain * (self.weight - mean) * variance.rsqrt()
            return nn.functional.conv2d(x, weight)

    rules = magnitude_rules(trace(Standardised(), torch.empty(1, width, 4, 4)))

    assert rules["gain"].kind == "factor"
    assert rules["gain"].size == pytest.approx(0.6 * min(1.0, math.sqrt(32 / width)))


def test_a_layer_scale_is_tiny_and_other_scales_start_at_one():
    class Scale(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.gamma = nn.Parameter(torch.ones(size))

        def forward(self, x):
            return self.gamma * x

    branch = Residual(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), Scale(6)))
    graph = trace(
        nn.Sequential(nn.Linear(3, 6), branch, Scale(6), nn.Linear(6, 2)), torch.empty(1, 3)
    )

    rules = magnitude_rules(graph)

    assert rules["1.branch.1.weight"].size == pytest.approx(0.5 * rules["1.branch.0.weight"].size)
    assert rules["1.branch.2.gamma"] == Rule("factor", 3e-6)
    assert rules["2.gamma"] == Rule("factor", 1.0)


def test_a_conv1d_of_transformers_has_its_fan_in_on_the_first_axis():
    from transformers.pytorch_utils import Conv1D

    graph = trace(nn.Sequential(Conv1D(300, 20)), torch.empty(1, 20))

    rule = magnitude_rules(graph)["0.weight"]
    assert rule.size == pytest.approx(math.sqrt(0.25 / 20))  # it emits the output


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


@pytest.mark.parametrize(
    ("role", "op", "size", "widest"),
    [
        ("table", "embedding", 0.02, 1.25**5),
        ("position", "add", 0.02, 1.25**5),
        ("token", "concat", 0.02, 1.25**5),
        ("other", "add", 0.02, 1.25**5),
        ("bias", "linear", 0.015, 1.25),
        ("recurrent_bias", "recurrent", 0.015, 1.25),
        ("bias", "batch_norm", 0.05, 1.25),
    ],
)
def test_tables_positions_and_biases_are_small_and_tables_have_a_wider_say(role, op, size, widest):
    graph = graph_with(role, "to", (9, 8), op=op)

    for raw in (1.0, 4.0):
        recipe = low_rank((9, 8), "to", raw)
        actual_raw = mean_square(recipe).sqrt().item()
        actual = mean_square(magnitude_of(graph, recipe)).sqrt().item()
        assert actual == pytest.approx(size * say(actual_raw, widest), rel=1e-4)


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
    assert weight.square().mean().item() == pytest.approx(1 / (6 * 72), rel=1e-4)  # on the input


def test_tiles_that_repeat_along_columns_do_not_amplify_repeating_channels():
    layout = Layout((256, 256), "oi")
    graph = graph_with("weight", "oi", (256, 256), op="linear", fan_in=256)
    draws = torch.Generator().manual_seed(0)
    channels = torch.randn(512, 16, generator=draws).repeat(1, 16)

    block = torch.randn(16, 16, 1, generator=draws)
    weight = expand(magnitude_of(graph, Tiled(block, layout), shared_codes=True))

    independent = math.sqrt(0.2)
    assert 0.5 < (channels @ weight.T).std() / independent < 2.0
    assert magnitude_of(graph, Tiled(block, layout)).block.abs().max() > 3 * weight.abs().max()


@pytest.mark.parametrize("kind", ["aligned", "mixed"])
def test_channels_that_share_low_rank_codes_do_not_amplify_along_a_chain_of_layers(kind):
    torch.manual_seed(0)
    codes = torch.randn(512, 8)
    layout = Layout((512, 512), "oi")
    rule = Rule("sized", math.sqrt(1 / 512), reads=kind)
    act = torch.relu if kind == "mixed" else torch.nn.Identity()
    shared = independent = act(torch.randn(64, 8) @ codes.T)

    for _ in range(6):
        recipe = LowRank(codes, torch.randn(8, 8) / 8 @ codes.T, layout)
        weight = expand(applied({"p": recipe}, {"p": rule}, shared_codes=True)["p"])
        size = weight.square().mean().sqrt() * math.sqrt(64 if kind == "aligned" else 8)
        shared = act(shared @ weight.T)
        independent = act(independent @ (size * torch.randn(512, 512)).T)

    ratio = shared.square().mean() / independent.square().mean()
    assert 0.2 < ratio ** (1 / 6) < 5  # a layer; without the rule it is about 64 and 32


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

    assert values.square().mean().sqrt().item() == pytest.approx(3.0 / 5, rel=1e-3)
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
    # Of some families the default head is large; that of an untrained decoder is small on purpose.
    head = next(n for n, module in model.named_modules() if module is model.get_classifier())
    assert 0.01 < ratios.pop(head) < 2
    outside = {n: round(r, 2) for n, r in ratios.items() if not 0.1 < r < 10}
    assert outside == {}
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0


def test_a_rule_without_a_say_has_its_size_whatever_the_decoder_emits():
    rule = Rule("sized", 0.3, say=0)

    for raw in (0.01, 1.0, 100.0):
        sized = applied({"p": low_rank((6, 5), "oi", raw)}, {"p": rule})["p"]
        assert mean_square(sized).sqrt().item() == pytest.approx(0.3, rel=1e-4)
