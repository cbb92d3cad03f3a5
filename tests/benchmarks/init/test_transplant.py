from __future__ import annotations

import pytest
import torch
from torch import nn

from ghn.benchmarks.init.transplant import fit, transplant
from ghn.graphs import trace
from ghn.zoo.convnets import ConvNet, ConvNetConfig


def net(width: int, kernel: int = 3, blocks: int = 2) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, width, kernel, padding=kernel // 2), nn.ReLU()]
    for _ in range(blocks):
        layers += [nn.Conv2d(width, width, kernel, padding=kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


def traced(model: nn.Module):
    return trace(model, torch.zeros(1, 3, 8, 8))


def test_the_same_architecture_gets_the_very_weights():
    source, model = net(6), net(6)

    written = transplant(model, traced(model), traced(source), dict(source.named_parameters()))

    assert sorted(written) == sorted(n for n, _ in model.named_parameters())
    for name, value in model.named_parameters():
        assert torch.equal(value, source.get_parameter(name))


def test_a_network_twice_as_wide_computes_the_same():
    source, model = net(4), net(8)
    fresh = [p.clone() for p in model.parameters()]
    x = torch.randn(2, 3, 8, 8)

    transplant(model, traced(model), traced(source), dict(source.named_parameters()))

    torch.testing.assert_close(model(x), source(x))
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), fresh, strict=True))


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_sampled_networks_twice_as_wide_compute_the_same(norm):
    narrow = ConvNetConfig(widths=(16, 32), norm=norm, squeeze=norm == "batch")
    source, model = ConvNet(narrow), ConvNet(narrow.replace(widths=(32, 64)))
    x = torch.randn(2, 3, 32, 32)

    graphs = [trace(m, x[:1]) for m in (model, source)]
    transplant(model, *graphs, dict(source.named_parameters()))

    torch.testing.assert_close(model.eval()(x), source.eval()(x), rtol=1e-4, atol=1e-5)


def test_kernels_keep_their_centre_and_depth_picks_the_nearest_layer():
    source, model = net(4, kernel=5, blocks=3), net(4, kernel=3, blocks=1)

    transplant(model, traced(model), traced(source), dict(source.named_parameters()))

    middle = source.get_parameter("4.weight")
    assert torch.allclose(model.get_parameter("2.weight"), middle[..., 1:4, 1:4] * (25 / 9) ** 0.5)


def test_a_larger_kernel_is_padded_around_its_centre():
    source, model = traced(net(4, kernel=3)), traced(net(4, kernel=5))
    values = torch.randn(4, 4, 3, 3)

    fitted = fit(values, source.specs["2.weight"], model.specs["2.weight"])

    assert fitted.shape == (4, 4, 5, 5)
    assert torch.allclose(fitted[..., 1:4, 1:4], values)
    assert fitted.count_nonzero() == values.numel()


def test_what_the_source_does_not_have_stays():
    source, model = net(4), nn.Sequential(net(4), nn.LayerNorm(5))
    before = model[1].weight.clone()

    written = transplant(model, traced(model), traced(source), dict(source.named_parameters()))

    assert "1.weight" not in written
    assert torch.equal(model[1].weight, before)
