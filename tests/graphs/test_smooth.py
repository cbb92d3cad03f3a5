import itertools
import sys

import pytest
import timm
import torch
import torch.nn.functional as F
from ties_helpers import gpt2, image, output_of, relative_change, tokens, with_random_values
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from ghn.errors import ConfigError, MissingExtraError, UnsupportedModelError
from ghn.graphs import channel_ties, smooth_channels
from ghn.graphs.smooth import _shortest_path, channel_distances, path_length
from ghn.graphs.ties import named_tensors

pytest.importorskip("fast_tsp")

SLOW = {
    "resnet18": lambda: (timm.create_model("resnet18"), image()),
    "resnet50": lambda: (timm.create_model("resnet50"), image()),
    "mobilenetv3": lambda: (timm.create_model("mobilenetv3_large_100"), image()),
    "densenet121": lambda: (timm.create_model("densenet121"), image()),
    "vit_tiny": lambda: (timm.create_model("vit_tiny_patch16_224"), image(224)[:1]),
    "gpt2": lambda: (gpt2(), (tokens(),)),
}


def small_net():
    return with_random_values(
        nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Conv2d(7, 2, 1))
    )


def total_variation(model):
    """Sum of differences of neighbours along both channel axes of all weights."""
    weights = [p.detach() for p in model.parameters() if p.ndim > 1]
    return sum(float(w.diff(dim=d).abs().sum()) for w in weights for d in (0, 1))


def check_function(model, inputs, effort):
    model = with_random_values(model)
    before = output_of(model, inputs)

    smoothed = smooth_channels(model, inputs, effort=effort)

    assert relative_change(before, output_of(model, inputs)) < 1e-4
    assert smoothed.reduction > 0.0


def test_a_smoothed_transformer_computes_what_it_did():
    check_function(gpt2(n_layer=1, n_head=3, n_embd=24, vocab_size=50), (tokens(),), effort=0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SLOW)
def test_smoothed_networks_compute_what_they_did(name):
    check_function(*SLOW[name](), effort=0.1)


def test_distances_are_those_of_all_slices_of_all_weights():
    model = small_net()
    (channels,) = channel_ties(model, image(8)).sets

    distances = channel_distances(named_tensors(model), channels)

    rows = torch.cat(
        [
            model[0].weight.flatten(1),
            model[0].bias[:, None],
            model[1].weight[:, None],
            model[1].bias[:, None],
            model[3].weight.transpose(0, 1).flatten(1),
        ],
        1,
    )
    assert torch.allclose(distances, (rows[:, None] - rows[None]).abs().sum(-1), atol=1e-5)


def test_the_order_is_the_shortest_of_all_orders():
    model = small_net()
    (channels,) = channel_ties(model, image(8)).sets
    distances = channel_distances(named_tensors(model), channels)
    best = min(path_length(distances, torch.tensor(p)) for p in itertools.permutations(range(7)))

    smoothed = smooth_channels(model, image(8))

    assert smoothed.after[channels.name] == pytest.approx(best, rel=1e-3)
    after = channel_distances(named_tensors(model), channels)
    assert path_length(after, torch.arange(7)) == pytest.approx(best, rel=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_total_variation_of_a_trained_network_falls_by_a_tenth():
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16.0
    labels = torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(BasicBlock, [1, 1, 1, 1], 10, 1, channels=(16, 16, 32, 32))
        model.maxpool = nn.Identity()
        optimiser = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.5)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, 100)
        for step in range(600):
            picked = torch.randint(len(images), (64,))
            loss = F.cross_entropy(model(images[picked]), labels[picked])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if step >= 500:
                schedule.step()
    model.eval()
    before, outputs = total_variation(model), output_of(model, images)
    accuracy = (outputs.argmax(1) == labels).float().mean()

    smooth_channels(model, images[:2])

    assert accuracy > 0.95
    assert total_variation(model) < 0.9 * before
    assert relative_change(outputs, output_of(model, images)) < 1e-4


def test_weights_that_are_not_finite_are_an_error_and_nothing_moves():
    model = with_random_values(
        nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 2))
    )
    with torch.no_grad():
        model[4].weight[0, 3] = float("nan")  # of the last set alone
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(UnsupportedModelError, match=r"finite.*2\.weight\[0\]"):
        smooth_channels(model, torch.empty(1, 3))

    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_without_the_solver_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_tsp", None)

    with pytest.raises(MissingExtraError, match=r"ghn\[neumeta\]"):
        smooth_channels(small_net(), image(8))


def test_more_time_changes_nothing_for_few_channels_and_a_path_begins_with_the_lower_number():
    points = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(points, points, p=1)

    paths = [_shortest_path(distances, seconds) for seconds in (0.1, 0.1, 0.4)]

    assert torch.equal(paths[0], paths[1])
    assert torch.equal(paths[0], paths[2])
    assert paths[0][0] < paths[0][-1]


def test_channels_that_are_all_alike_stay():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)

    found = smooth_channels(model, torch.randn(2, 4))

    assert set(found.after.values()) == {0.0}


@pytest.mark.parametrize("effort", [0.0, -1.0, float("nan")])
def test_an_effort_is_above_zero(effort):
    with pytest.raises(ConfigError, match="effort"):
        smooth_channels(small_net(), effort=effort)
