import warnings

import pytest
import timm
import torch
from neumeta_helpers import GENERATE, inputs, settings, tail
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from ghn.errors import ConfigError, UnknownNameError, UnsupportedModelError
from ghn.graphs import Resizer, trace
from ghn.methods.neumeta import Family, SizeWarning
from ghn.methods.neumeta.groups import Group, find_groups, last_block, widths_of

GROUPS = {
    "layer3.0": Group("layer3.0", 64, 1, ("a",)),
    "layer3.1": Group("layer3.1", 64, 1, ("b",)),
    "attn": Group("attn", 96, 32, ("c",)),
}


def test_a_share_a_number_a_module_and_a_glob_say_how_wide_groups_are():
    assert widths_of(GROUPS, 0.5) == {"layer3.0": 32, "layer3.1": 32, "attn": 64}
    assert widths_of(GROUPS, {"layer3": 40}) == {"layer3.0": 40, "layer3.1": 40, "attn": 96}
    assert widths_of(GROUPS, {"*.1": 0.25})["layer3.1"] == 16
    assert widths_of(GROUPS, {})["layer3.1"] == 64


def test_a_number_that_heads_cannot_have_becomes_the_nearest_that_they_can_and_is_said():
    with pytest.warns(SizeWarning, match="40 of 96 is no multiple of 32, 32 is"):
        found = widths_of(GROUPS, {"attn": 40})

    assert found["attn"] == 32


def test_a_width_outside_of_what_was_trained_is_said():
    with pytest.warns(SizeWarning, match="outside of the trained 50% to 100%"):
        widths_of(GROUPS, {"layer3.0": 20}, low=0.5)


@pytest.mark.parametrize("width", [0, 0.0, -3, 65, 1.2, True])
def test_what_is_no_width_is_refused(width):
    with pytest.raises(ConfigError, match="width"):
        widths_of(GROUPS, {"layer3.0": width})


def test_an_unknown_group_is_answered_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="layer3"):
        widths_of(GROUPS, {"layer4": 3})


def test_only_channels_all_of_whose_weights_are_generated_make_groups():
    resizer = Resizer(tail(), inputs())
    names = [n for n, _ in tail().named_parameters()]

    inner = find_groups(resizer, [n for n in names if n.startswith("blocks.1")])

    assert list(inner) == ["blocks.1.conv1"]
    assert inner["blocks.1.conv1"].full == 12


def test_whole_heads_of_attention_come_and_go():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=3, num_classes=5
    )
    image = torch.empty(1, 3, 32, 32)
    names = [n for n, _ in model.named_parameters() if n.startswith("blocks.1.")]

    groups = find_groups(Resizer(model, image), names)

    heads = groups["blocks.1.attn.qkv"]
    assert (heads.full, heads.unit) == (48, 16)
    assert groups["blocks.1.mlp.fc1"].full == 192


def test_the_nearest_name_says_how_wide_a_group_is():
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 16)), nn.Linear(16, 2)
    )
    names = [name for name, _ in model.named_parameters()]
    groups = find_groups(Resizer(model, torch.empty(1, 4)), names)

    for order in (1, -1):
        wanted = dict([("1.1", 4), ("1", 0.75), ("*", 2)][::order])
        assert widths_of(groups, wanted) == {"0": 2, "1.0": 9, "1.1": 4}


def test_a_group_counts_the_channels_of_the_module_that_it_is_named_after():
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        window_size=4,
        embed_dim=48,
        depths=(1, 1),
        num_heads=(3, 6),
    )
    grouped = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 8, 3, groups=2))
    grouped.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)])
    settings = LlamaConfig(
        hidden_size=48,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=96,
        num_hidden_layers=1,
        vocab_size=64,
    )
    llama = AutoModelForCausalLM.from_config(settings)

    def found(model, image=None):
        groups = find_groups(Resizer(model, image), [n for n, _ in model.named_parameters()])
        return {name: (group.full, group.unit) for name, group in groups.items()}

    image = torch.empty(1, 3, 32, 32)
    assert found(swin, image)["layers.1.blocks.0.attn.qkv"] == (96, 16)
    assert found(grouped, image) == {"0": (24, 12)}
    assert found(llama)["model.layers.0.self_attn.q_proj"] == (48, 24)
    assert found(llama)["model.layers.0.mlp.gate_proj"] == (96, 1)


class Parts(nn.Module):
    """Its code takes channels apart into three, so that not all numbers of them can be had."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        first, second, third = self.conv(x).relu().chunk(3, 1)
        return self.head(torch.cat([third, second, first], 1).mean((2, 3)))


def test_a_width_that_the_models_code_cannot_have_becomes_the_nearest_that_it_can():
    image = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    family = Family(Parts(), settings(low=0.25), generate="*", example_inputs=image)
    (group,) = family.groups.values()

    with pytest.warns(SizeWarning, match=f"cannot have these widths: {group.name}: 1 becomes 2"):
        small = family.sample(0.25)

    assert small.conv.out_channels == 10
    assert small(image).shape == (2, 5)
    assert family.sizes(0.75) == {group.name: 3}


def test_the_last_block_with_channels_of_its_own_is_generated_by_default():
    model = tail()

    assert {n.rsplit(".", 2)[0] for n in last_block(model, trace(model, inputs()), inputs())} == {
        "blocks.1"
    }


def test_a_model_without_resizable_channels_is_refused():
    with pytest.raises(UnsupportedModelError, match="generate="):
        Family(nn.Linear(4, 3), settings(), example_inputs=torch.empty(1, 4))
    with pytest.raises(UnsupportedModelError, match="channels whose weights are all generated"):
        Family(tail(), settings(), generate="head.*", example_inputs=inputs())


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(ConfigError, match="fits no parameter"):
        Family(tail(), settings(), generate=GENERATE.replace("s", "z"), example_inputs=inputs())


@pytest.mark.parametrize("heads", [3, 4])
@pytest.mark.parametrize("generate", [None, "*"])
def test_heads_that_torch_cannot_take_away_are_no_group_and_the_rest_of_the_layer_is(
    heads, generate
):
    layer = nn.TransformerEncoderLayer(12, heads, 20, batch_first=True, dropout=0)
    model = nn.Sequential(nn.Linear(6, 12), layer, nn.Linear(12, 4)).eval()
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    config = settings(base="frozen", reach=0.0)

    made = Family(model, config, generate=generate, example_inputs=x[:1])

    assert {name: group.full for name, group in made.groups.items()} == {"1.linear1": 20}
    torch.testing.assert_close(made.sample(1.0)(x), model(x))
    assert made.sample(0.5)[1].linear1.out_features == 10
    assert made.sample(0.5)(x).shape == (2, 5, 4)


def test_a_block_of_torchvisions_transformer_is_a_family():
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 16, 1, 3, 48, 64, num_classes=5).eval()
    nn.init.normal_(model.heads[0].weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    made = Family(model, settings(base="frozen", reach=0.0), example_inputs=x[:1])

    torch.testing.assert_close(made.sample(1.0)(x), model(x))
    assert made.sample(0.5)(x).shape == (2, 5)


def test_a_network_whose_only_channels_are_such_heads_is_refused_in_words():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    with pytest.raises(UnsupportedModelError, match="code lets change"):
        Family(Attention().eval(), settings(), generate="*", example_inputs=torch.empty(1, 5, 12))


def test_a_share_that_heads_cannot_have_is_said_and_one_that_is_only_rounded_is_not():
    groups = {
        "attention": Group("attention", 12, 4, ("a",)),
        "hidden": Group("hidden", 9, 1, ("h",)),
    }

    with pytest.warns(SizeWarning, match="attention: 6 of 12 is no multiple of 4, 8 is"):
        assert widths_of(groups, 0.5) == {"attention": 8, "hidden": 4}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert widths_of(groups, {"hidden": 0.5}) == {"attention": 12, "hidden": 4}


@pytest.mark.parametrize("order", [1, -1])
def test_an_exact_name_counts_for_more_than_a_pattern(order):
    groups = {name: Group(name, 12, 1, (name,)) for name in ("0", "1")}
    wanted = dict([("0", 3), ("*", 0.5)][::order])

    assert widths_of(groups, wanted) == {"0": 3, "1": 6}
