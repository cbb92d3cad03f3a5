import copy

import pytest
import timm
import torch
from ties_helpers import gpt2, image, output_of, relative_change, tokens, with_random_values
from torch import nn
from torch.nn.utils import prune, weight_norm

from ghn.errors import ConfigError, ShapeError, UnsupportedModelError
from ghn.graphs import Resizer, resize_channels

MODELS = {
    "resnet18": lambda: (timm.create_model("resnet18", num_classes=10), image()),
    "mobilenetv3": lambda: (timm.create_model("mobilenetv3_small_050", num_classes=10), image()),
    "convnext": lambda: (timm.create_model("convnext_atto", num_classes=10), image()),
    "vit": lambda: (
        timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10),
        image(32),
    ),
    "gpt2": lambda: (gpt2(n_layer=2, n_head=3, n_embd=24, vocab_size=50), (tokens(),)),
}


@pytest.mark.parametrize("name", MODELS)
def test_two_thirds_of_every_set_make_a_working_model_of_the_same_class(name):
    model, inputs = MODELS[name]()
    resizer = Resizer(with_random_values(model), inputs)
    widths = {s.name: max(1, 2 * s.size // 3) for s in resizer.ties.sets}

    small = resizer.resize(widths)

    assert type(small) is type(model)
    assert output_of(small, inputs).shape == output_of(model, inputs).shape
    count = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    assert 0.35 < count < 0.7


def test_dropping_dead_channels_changes_nothing():
    model = with_random_values(timm.create_model("resnet18", num_classes=10))
    with torch.no_grad():
        model.layer3[1].bn1.weight[40:] = 0.0
        model.layer3[1].bn1.bias[40:] = 0.0
    inputs = image()

    small = resize_channels(model, {"layer3.1.conv1.weight[0]": 40}, inputs)

    assert small.layer3[1].conv1.out_channels == small.layer3[1].bn1.num_features == 40
    assert relative_change(output_of(model, inputs), output_of(small, inputs)) < 1e-5


def test_the_model_itself_stays_as_it_was():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    before = copy.deepcopy(model.state_dict())

    resize_channels(model, {"0.weight[0]": 5}, torch.empty(1, 3))

    assert model[0].out_features == 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_groups_heads_and_tied_weights_follow_their_sets():
    model, inputs = MODELS["gpt2"]()
    resizer = Resizer(model, inputs)
    (heads,) = (s for s in resizer.ties.sets if s.size == 3 and "h.0" in s.name)
    grouped = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(8, 8), nn.Conv2d(8, 2, 1)
    )

    small = resizer.resize({heads.name: 2, resizer.ties.sets[0].name: 16})
    fewer = resize_channels(grouped, {"0.weight[0]": 6}, image(8))

    assert small.lm_head.weight is small.transformer.wte.weight
    assert small.transformer.h[0].attn.split_size == 16
    assert small.transformer.h[1].attn.split_size == 24
    assert (fewer[1].groups, fewer[2].num_groups, fewer[2].num_channels) == (6, 6, 6)


def test_sets_that_share_a_folded_axis_need_the_same_width():
    model, inputs = MODELS["vit"]()
    resizer = Resizer(model, inputs)
    within = [s.name for s in resizer.ties.sets if "blocks.0.attn" in s.name and s.size == 64]

    with pytest.raises(ShapeError, match="need the same width"):
        resizer.resize({within[0]: 32})

    small = resizer.resize(dict.fromkeys(within, 32))
    assert small.blocks[0].attn.head_dim == 32
    assert sorted(within) in [sorted(group) for group in resizer.same_width]


def test_heads_lie_along_all_parts_of_a_folded_axis_and_are_free():
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True).eval()
    model = nn.Sequential(nn.Linear(6, 12), layer)

    resizer = Resizer(model, torch.empty(1, 5, 6))

    sizes = {s.name: s.size for s in resizer.ties.sets}
    assert [[sizes[name] for name in group] for group in resizer.same_width] == [[4, 4]]


def test_positions_say_which_part_of_each_tensor_stays():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    resizer = Resizer(model, torch.empty(1, 3))

    positions = resizer.positions({"0.weight[0]": 5})

    assert [p.tolist() for p in positions["2.weight"]] == [[0, 1], [0, 1, 2, 3, 4]]
    assert [len(p) for p in positions["0.weight"]] == [5, 3]


@pytest.mark.parametrize("width", [0, 9, -1])
def test_a_width_out_of_range_is_an_error(width):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

    with pytest.raises(ConfigError, match=r"in \[1, 8\]"):
        resize_channels(model, {"0.weight[0]": width}, torch.empty(1, 3))


def test_an_unknown_set_is_an_error_that_lists_the_sets():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

    with pytest.raises(ConfigError, match=r"0\.weight\[0\]"):
        resize_channels(model, {"1.weight[0]": 5}, torch.empty(1, 3))


class Stubborn(nn.Module):
    """Computes a size from a number that is no size itself."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)
        self._half = 4

    def forward(self, x):
        return self.second(self.first(x).view(-1, 2 * self._half))


def test_a_module_that_hides_its_sizes_is_an_error():
    with pytest.raises(UnsupportedModelError, match="cannot be resized"):
        resize_channels(Stubborn(), {"first.weight[0]": 5}, torch.empty(1, 3))


@pytest.mark.parametrize(("affine", "tracked"), [(False, False), (True, False), (True, True)])
def test_instance_norms_know_their_new_number_of_channels(affine, tracked):
    norm = nn.InstanceNorm2d(12, affine=affine, track_running_stats=tracked)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), norm, nn.ReLU(), nn.Conv2d(12, 4, 1)).eval()
    x = torch.randn(2, 3, 8, 8)

    made = resize_channels(model, {"0.weight[0]": 6}, x)

    assert made[1].num_features == 6
    assert made(x).shape == (2, 4, 6, 6)


class EmptyRest(nn.Module):
    """Takes all columns of an image apart from the none that are left, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = self.a(x)
        return self.b(torch.cat([y[..., :4].relu(), y[..., 4:]], -1))


def test_what_has_no_elements_holds_no_channels_back():
    x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    small = resize_channels(EmptyRest(), {"a.weight[0]": 5}, x)

    assert small.a.out_channels == small.b.in_channels == 5
    assert small(x).shape == (1, 2, 4, 4)


class Counting(nn.Module):
    """Remembers numbers that equal a width and are none, beside heads under another name."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 2)
        self.layer_idx, self.factor, self.image_size, self.h = 8, 8, 8, 8
        self.dim = 8

    def forward(self, x):
        return self.second(self.first(x).view(-1, self.h)) * self.factor


def test_numbers_that_happen_to_equal_a_width_stay():
    model = with_random_values(Counting())
    with torch.no_grad():
        model.second.weight[:, 5:] = 0.0
    x = torch.randn(3, 8)

    small = resize_channels(model, {"first.weight[0]": 5}, x)

    assert (small.layer_idx, small.factor, small.image_size) == (8, 8, 8)
    assert (small.h, small.dim) == (5, 5)
    torch.testing.assert_close(small(x), model(x))


def test_an_image_as_large_as_the_model_is_wide_stays_as_large():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, num_heads=4, depth=2, num_classes=4
    )

    small = resize_channels(model, {"blocks.0.attn.qkv.weight[0]": 3}, image(32))

    assert small.patch_embed.img_size == (32, 32)
    assert small(image(32)).shape == (2, 4)


def test_a_truth_value_is_no_width():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

    with pytest.raises(ConfigError, match="whole number"):
        resize_channels(model, {"0.weight[0]": True}, torch.empty(1, 3))


def test_weights_that_are_computed_before_each_call_are_computed_anew():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    model[2] = weight_norm(model[2])
    x = torch.randn(4, 3)
    model(x)

    small = resize_channels(model, {"0.bias[0]": 5}, x)

    assert small[0].weight_orig.shape == small[0].weight_mask.shape == (5, 3)
    hidden = torch.relu(model[0](x))[:, :5] @ model[2].weight_v[:, :5].T
    scale = model[2].weight_g / model[2].weight_v[:, :5].norm(dim=1, keepdim=True)
    torch.testing.assert_close(small(x), hidden * scale.T + model[2].bias)
