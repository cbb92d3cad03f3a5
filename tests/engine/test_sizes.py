"""The implicit decoder and sizes as a condition are ordinary parts of the engine."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ghn import GHN, GHNConfig, trace
from ghn.conditioning import SizeConfig
from ghn.decoders import ImplicitDecoderConfig
from ghn.encoders import FixedCodesConfig
from ghn.engine.recalibrate import recalibrate_statistics


def hypernetwork(magnitude="unit"):
    torch.manual_seed(0)
    return GHN(
        GHNConfig(
            encoder=FixedCodesConfig(dim=8),
            condition=SizeConfig(names=("width",), full=(8,), dim=4),
            decoder=ImplicitDecoderConfig(dim=12, hidden=16, rank=4, bands=3),
            magnitude=magnitude,
        )
    )


def graph_of(width):
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))
    return trace(model, torch.empty(1, 3, 8, 8))


@pytest.mark.parametrize("magnitude", ["bounded", "plain", "unit"])
def test_one_hypernetwork_emits_a_network_at_each_size(magnitude):
    ghn = hypernetwork(magnitude)

    for width in (1, 5, 8):
        graph = graph_of(width)
        found = ghn(graph, condition={"width": width})
        assert {n: tuple(t.shape) for n, t in found.items()} == {
            n: spec.shape for n, spec in graph.specs.items()
        }
        assert all(t.isfinite().all() for t in found.values())


def test_the_size_changes_what_is_emitted_for_one_graph():
    ghn, graph = hypernetwork(), graph_of(5)

    both = ghn(graph, condition=[{"width": 5}, {"width": 8}])["0.weight"]

    torch.testing.assert_close(both[0], ghn(graph, condition={"width": 5})["0.weight"])
    assert not torch.allclose(both[0], both[1])


def test_only_selected_parameters_are_emitted_and_they_are_the_same():
    ghn, graph = hypernetwork(), graph_of(5)

    some = ghn(graph, condition={}, select=lambda graph, spec: spec.name.startswith("0"))
    whole = ghn(graph, condition={})

    assert list(some) == [name for name in whole if name.startswith("0")]
    torch.testing.assert_close(some, {name: whole[name] for name in some})


def test_unit_magnitude_leaves_values_as_the_decoder_emits_them():
    unit, plain = hypernetwork(), hypernetwork("plain")
    graph = graph_of(5)

    one, other = unit(graph, condition={})["0.weight"], plain(graph, condition={})["0.weight"]

    ratio = other / one
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-4, atol=0.0)
    assert 0.2 < one.square().mean().sqrt() < 5.0
    assert ratio.mean() < 0.5


def test_a_checkpoint_with_an_implicit_decoder_and_sizes_reads_back_bit_for_bit(tmp_path):
    ghn, graph = hypernetwork().eval(), graph_of(6)

    ghn.save_pretrained(tmp_path)
    read = GHN.from_pretrained(tmp_path).eval()

    expected = ghn(graph, condition={"width": 6})
    assert all(torch.equal(t, expected[n]) for n, t in read(graph, condition={"width": 6}).items())


def test_statistics_of_chosen_norms_alone_are_measured():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    x = 2.0 + torch.randn(50, 3, generator=torch.Generator().manual_seed(0))

    recalibrate_statistics(model, [x], only=[model[2]])

    assert torch.equal(model[0].running_mean, torch.zeros(3))
    hidden = model[1](x / (1.0 + model[0].eps) ** 0.5)
    torch.testing.assert_close(model[2].running_mean, hidden.mean(0), rtol=1e-4, atol=1e-5)
