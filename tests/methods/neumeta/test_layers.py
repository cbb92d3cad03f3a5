"""Families of networks with layers of every kind: what a layer adds up stays what it was."""

from __future__ import annotations

import pytest
import torch
import torchvision
from neumeta_helpers import settings
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ghn.methods.neumeta import Family

PLAIN = {"base": "frozen", "reach": 0.0}


def family(model, example, **changes):
    return Family(model.eval(), settings(**PLAIN, **changes), generate="*", example_inputs=example)


class Adapted(nn.Module):
    """A linear layer with a low-rank addition, both of ones."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8, bias=False), nn.Linear(10, 2, bias=False)
        self.weight = nn.Parameter(torch.empty(10, 8))
        self.down, self.up = nn.Parameter(torch.empty(4, 8)), nn.Parameter(torch.empty(10, 4))

    def forward(self, x):
        return self.last(F.linear(self.first(x), self.weight + self.up @ self.down))


def convolutions(*between):
    ends = (nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 2, 1, bias=False))
    return nn.Sequential(ends[0], *between, ends[1])


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (convolutions(nn.Conv2d(8, 8, 2, groups=8, bias=False)), torch.ones(1, 3, 4, 4)),
        (convolutions(nn.ConvTranspose2d(8, 8, 2, groups=8, bias=False)), torch.ones(1, 3, 4, 4)),
        (convolutions(nn.ConvTranspose2d(8, 8, 2, groups=4, bias=False)), torch.ones(1, 3, 4, 4)),
        (convolutions(nn.ConvTranspose2d(8, 8, 2, bias=False)), torch.ones(1, 3, 4, 4)),
        (Adapted(), torch.ones(2, 6)),
    ],
    ids=["depthwise", "transposed depthwise", "transposed in groups", "transposed", "low rank"],
)
def test_networks_of_ones_add_up_to_the_same_at_half_the_width(model, example):
    for parameter in model.parameters():
        nn.init.ones_(parameter)

    small = family(model, example).sample(0.5)

    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(small(example), model(example))


def test_statistics_of_a_norm_without_parameters_are_measured():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32, affine=False), nn.ReLU(), nn.Linear(32, 2)
    )
    x = torch.randn(64, 6)
    made = family(model, x, calibration=64, steps=1)
    made.fit([(x, torch.arange(64) % 2)])

    small = made.sample(0.5)

    hidden = small[0](x)
    torch.testing.assert_close(small[1].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(small[1].running_var, hidden.var(0), rtol=1e-3, atol=1e-5)


def test_spectral_norms_fit_the_weights_of_a_width():
    torch.manual_seed(0)
    model = nn.Sequential(spectral_norm(nn.Linear(6, 16)), nn.ReLU(), nn.Linear(16, 2))

    small = family(model, torch.randn(2, 6)).sample(0.5)

    assert torch.linalg.matrix_norm(small[0].weight, 2).item() == pytest.approx(1.0, abs=0.02)


def test_masks_of_infinities_are_kept(tmp_path):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    x = torch.randn(2, 6)
    made = family(model, x)
    made.save(tmp_path / "family.safetensors")

    loaded, _ = Family.load(tmp_path / "family.safetensors", model, example_inputs=x)

    assert torch.equal(loaded.sample(0.5).mask, model.mask)


def test_a_family_is_read_into_a_network_of_another_precision(tmp_path):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(16, 6)
    made = family(model, x, calibration=16, steps=1)
    made.fit([(x, torch.arange(16) % 2)])
    made.save(tmp_path / "family.safetensors")

    twice, _ = Family.load(
        tmp_path / "family.safetensors", model.double(), example_inputs=x.double()
    )

    small, other = made.sample(0.5), twice.sample(0.5)
    torch.testing.assert_close(other(x.double()), small(x).double(), rtol=1e-4, atol=1e-5)


def test_channels_of_other_numbers_side_by_side_are_left_as_they_are():
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=10)

    made = family(model, torch.randn(1, 3, 32, 32))

    assert len(made.groups) > 3
    assert made.sample(0.5)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


class Outside(nn.Module):
    """Adds what its blocks return to what they read."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(3)
        )

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


def test_blocks_with_their_shortcuts_outside_may_be_fewer():
    model, x = Outside(), torch.randn(2, 6)
    made = family(model, x, depths={"blocks": [1, 3]})

    small = made.sample(depth={"blocks": 1})

    hidden = model.first(x)
    torch.testing.assert_close(small(x), model.last(hidden + model.blocks[0](hidden)))
