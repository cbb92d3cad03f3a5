import copy

import numpy as np
import pytest
import timm
import torch
from ties_helpers import gpt2, image, output_of, relative_change, tokens, with_random_values
from torch import nn

from ghn.errors import UnsupportedModelError
from ghn.graphs import channel_ties, shuffle_channels
from ghn.graphs.ties import named_tensors, permute_channels

SMALL = ["resnet18", "mobilenetv3_small_100"]
SLOW = ["resnet50", "mobilenetv3_large_100", "convnext_tiny", "densenet121"]


@pytest.fixture(scope="module")
def resnet():
    return with_random_values(timm.create_model("resnet18", num_classes=10))


def check_shuffle(model, inputs):
    model = with_random_values(model)
    before = output_of(model, inputs)
    tensors = {name: t.clone() for name, t in named_tensors(model).items()}

    sets = shuffle_channels(model, inputs, seed=0)

    assert before.std() > 0.01
    assert relative_change(before, output_of(model, inputs)) < 1e-4
    moved = {axis.name for channels in sets for axis in channels.axes}
    assert all(
        not torch.equal(t, tensors[n]) for n, t in named_tensors(model).items() if n in moved
    )
    return sets, moved


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_shuffled_convolutional_networks_compute_what_they_did(name):
    model = timm.create_model(name, num_classes=10)

    _, moved = check_shuffle(model, image())

    still = {n for n in named_tensors(model) if n not in moved and "num_batches" not in n}
    assert still == {
        n
        for n, _ in model.named_parameters()
        if n in ("fc.bias", "classifier.bias", "head.fc.bias")
    }


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)],
)
def test_shuffled_vision_transformers_compute_what_they_did(name):
    model = timm.create_model(name, num_classes=10)

    _, moved = check_shuffle(model, image(224)[:1])

    assert {n for n, _ in model.named_parameters()} - moved == {
        n for n in ("head.bias", "head.fc.bias") if n in dict(model.named_parameters())
    }


@pytest.mark.slow
def test_shuffled_gpt2_small_computes_what_it_did():
    check_shuffle(gpt2(), (tokens(),))


def test_sets_of_gpt2_are_the_stream_the_hidden_units_the_heads_and_places_in_them():
    model = gpt2(n_layer=1, n_head=3, n_embd=24, vocab_size=50, n_positions=16)

    sets, _ = check_shuffle(model, (tokens(),))

    assert sorted(s.size for s in sets) == [3, 8, 8, 24, 96]
    (stream,) = (s for s in sets if s.size == 24)
    assert {"transformer.wte.weight", "transformer.wpe.weight"} <= {a.name for a in stream.axes}


def test_a_set_left_in_place_on_one_axis_shows(resnet):
    model, inputs = copy.deepcopy(resnet), image()
    before = output_of(model, inputs)
    channels = channel_ties(model, inputs).sets[0]
    missing = type(channels)(channels.name, channels.size, channels.axes[:-1])

    permute_channels(named_tensors(model), missing, torch.arange(channels.size).roll(1))

    assert relative_change(before, output_of(model, inputs)) > 1e-3


def test_a_residual_stream_is_one_set_with_the_statistics_of_its_norms(resnet):
    stream = channel_ties(resnet, image()).sets[0]

    names = {(axis.name, axis.axis) for axis in stream.axes}
    assert stream.name == "conv1.weight[0]"
    assert {
        ("bn1.running_var", 0),
        ("layer1.0.conv1.weight", 1),
        ("layer1.1.bn2.running_mean", 0),
        ("layer2.0.downsample.0.weight", 1),
    } <= names


def test_what_is_frozen_says_why(resnet):
    frozen = {(f.name, f.axis): f.why for f in channel_ties(resnet, image()).frozen}

    assert frozen["conv1.weight", 1] == "input of the model"
    assert frozen["conv1.weight", 2] == "places of a kernel"
    assert frozen["fc.weight", 0] == frozen["fc.bias", 0] == "output of the model"


def test_looking_for_ties_leaves_the_model_as_it_was(resnet):
    before = copy.deepcopy(resnet.state_dict())

    channel_ties(resnet, image())

    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())


def test_one_seed_gives_one_permutation_and_another_another():
    first, second, third = (
        with_random_values(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)))
        for _ in range(3)
    )

    for model, seed in ((first, 0), (second, 0), (third, 1)):
        shuffle_channels(model, torch.empty(1, 3), seed=seed)

    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, third[0].weight)


def test_nothing_to_permute_is_an_error():
    with pytest.raises(UnsupportedModelError, match="no channels that may be permuted"):
        shuffle_channels(nn.Linear(3, 2), torch.empty(1, 3))


def test_every_set_is_moved_however_few_its_channels():
    for seed in range(20):
        model = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
        before = model[0].weight.clone()

        shuffle_channels(model, torch.empty(1, 3), seed=seed)

        assert torch.equal(model[0].weight, before.flip(0))


class Moody(nn.Sequential):
    """Remembers which mode it was put into."""

    def train(self, mode=True):
        self.scale = 2.0 if mode else 1.0
        return super().train(mode)

    def forward(self, x):
        return super().forward(x) * self.scale


@pytest.mark.parametrize("training", [False, True])
def test_modules_are_put_back_into_the_mode_they_were_in(training):
    model = with_random_values(Moody(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))).train(training)
    inputs = torch.randn(4, 3)
    before = output_of(model, inputs)

    shuffle_channels(model, inputs, seed=0)

    assert relative_change(before, output_of(model, inputs)) < 1e-5
    assert model[0].training is training


@pytest.mark.slow
def test_modules_forget_what_they_computed_from_weights():
    model = with_random_values(timm.create_model("levit_128s", num_classes=10)).double()
    inputs = image(224)[:1].double()
    before = output_of(model, inputs)

    shuffle_channels(model, inputs, seed=0)

    assert relative_change(before, output_of(model, inputs)) < 1e-10
    assert not model.training


def test_index_maps_cover_each_position_of_an_axis_at_most_once(resnet):
    for channels in channel_ties(resnet, image()).sets:
        for axis in channels.axes:
            assert axis.index.shape[0] == channels.size
            assert len(np.unique(axis.index)) == axis.index.size


def test_tensors_that_share_memory_are_refused_and_nothing_moves():
    def expanded(model):
        model[1].weight = nn.Parameter(torch.randn(1, 1).expand(6, 6))

    def shared(model):
        model[1].weight = nn.Parameter(model[0].weight.data)

    def meta(model):
        model.to("meta")

    for change, words in ((expanded, "expanded"), (shared, "share memory"), (meta, "meta")):
        model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
        change(model)
        before = copy.deepcopy(model.state_dict())

        with pytest.raises(UnsupportedModelError, match=words):
            shuffle_channels(model, torch.randn(2, 6), seed=0)

        if change is not meta:
            assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_parameters_side_by_side_in_one_memory_may_move():
    flat = torch.randn(6 * 6 + 6 * 6)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    model[0].weight = nn.Parameter(flat[:36].view(6, 6))
    model[1].weight = nn.Parameter(flat[36:].view(6, 6))

    check_shuffle(model, torch.randn(2, 6))


def test_a_model_of_complex_weights_has_nothing_to_permute():
    model = nn.Linear(4, 4, dtype=torch.complex64)

    with pytest.raises(UnsupportedModelError, match="no channels that may be permuted"):
        shuffle_channels(model, torch.randn(2, 4, dtype=torch.complex64))
