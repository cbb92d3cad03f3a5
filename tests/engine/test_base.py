import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from ghn.conditioning import ValuesConfig
from ghn.decoders import (
    ChunkedDecoderConfig,
    DenseDecoderConfig,
    LowRankDecoderConfig,
    RecurrentDecoderConfig,
    TiledDecoderConfig,
)
from ghn.encoders import FixedCodesConfig
from ghn.engine import GHN, BaseConfig, GHNConfig, predict_params
from ghn.errors import ConfigError
from ghn.graphs import trace
from ghn.kernels import expand

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VALUES = torch.tensor([[0.2], [0.9]])


def model(width=8):
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(width, 5)),
    )


GRAPH = trace(model(), X)
BASE = BaseConfig()
DECODERS = {
    "lowrank": LowRankDecoderConfig(dim=10, hidden=16, rank=4, rows=32),
    "tiled": TiledDecoderConfig(dim=10, hidden=16, block=8),
    "dense": DenseDecoderConfig(dim=10, outputs=GRAPH.num_parameters),
    "chunked": ChunkedDecoderConfig(dim=10, hidden=(16,), chunk=50),
    "recurrent": RecurrentDecoderConfig(dim=10, state=16, chunk=50),
}


def build(decoder="chunked", base=BASE):
    torch.manual_seed(0)
    config = GHNConfig(
        encoder=FixedCodesConfig(dim=8),
        condition=ValuesConfig(),
        decoder=DECODERS[decoder],
        magnitude="plain",
        base=base,
    )
    ghn = GHN(config)
    if base is not None:
        ghn.base.hold(model())
    return ghn


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_emitted_is_the_base_and_what_a_twin_without_one_adds_to_its_constants(decoder):
    ghn, twin = build(decoder), build(decoder, base=None)
    own = dict(model().named_parameters())

    emitted, plain = ghn(GRAPH, condition=VALUES), twin(GRAPH, condition=VALUES)

    for name, tensor in emitted.items():
        rest = 1.0 if name == "1.weight" else 0.0  # the gain of the BatchNorm
        torch.testing.assert_close(tensor, own[name] + plain[name] - rest)
    assert (emitted["5.weight"][0] - emitted["5.weight"][1]).abs().max() > 1e-5


def test_with_changes_of_zero_the_network_is_the_original_bit_for_bit():
    ghn, network = build("dense"), model()
    for parameter in ghn.decoder.parameters():
        nn.init.zeros_(parameter)

    emitted = ghn(GRAPH, condition=[0.5])

    assert all(torch.equal(emitted[n], p) for n, p in network.named_parameters())
    assert torch.equal(functional_call(network, emitted, (X,)), network(X))


def test_recipes_and_selected_ones_hold_the_base_too():
    ghn = build("lowrank")

    recipes = ghn.recipes([GRAPH], condition=VALUES)[0]
    weights = ghn.recipes([GRAPH], select=lambda _, s: s.role == "weight", condition=VALUES)[0]

    tensors = ghn(GRAPH, condition=VALUES)
    assert set(weights) == {"0.weight", "5.weight"}
    for name, tensor in tensors.items():
        torch.testing.assert_close(expand(recipes[name]), tensor)
    for name, recipe in weights.items():
        torch.testing.assert_close(expand(recipe), tensors[name])


def test_predict_params_writes_base_and_change():
    ghn, target = build(), model()

    predict_params(target, X, checkpoint=ghn, condition=[0.3])

    for name, tensor in ghn(GRAPH, condition=[0.3]).items():
        torch.testing.assert_close(target.get_parameter(name).data, tensor)


@pytest.mark.parametrize("trained", [True, False])
def test_a_base_is_trained_or_fixed(trained):
    ghn = build(base=BaseConfig(trained=trained))

    sum(t.square().sum() for t in ghn(GRAPH, condition=VALUES).values()).backward()

    has_gradient = [t.grad is not None and bool(t.grad.any()) for t in ghn.base.tensors]
    assert has_gradient[0] == trained
    assert all(t.requires_grad == trained for t in ghn.base.tensors)


def test_the_scale_multiplies_changes_only():
    whole, half = build(), build(base=BaseConfig(scale=0.5))
    own = dict(model().named_parameters())

    emitted, halved = whole(GRAPH, condition=[0.3]), half(GRAPH, condition=[0.3])

    for name, parameter in own.items():
        change = emitted[name] - parameter
        torch.testing.assert_close(2 * (halved[name] - parameter), change, atol=1e-6, rtol=1e-4)


def test_a_base_is_saved_and_loaded(tmp_path):
    ghn = build()
    ghn.save_pretrained(tmp_path)

    loaded = GHN.from_pretrained(tmp_path)

    assert loaded.config == ghn.config == GHNConfig.from_dict(ghn.config.to_dict())
    one, other = ghn(GRAPH, condition=[0.3]), loaded(GRAPH, condition=[0.3])
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_held_is_a_copy():
    ghn, network = build(), model()
    ghn.base.hold(network, ["5.weight"])
    before = copy.deepcopy(ghn.base.tensors[0])

    nn.init.zeros_(network[5].weight)

    assert torch.equal(ghn.base.tensors[0], before)
    assert ghn.base.config.names == ("5.weight",)


def test_another_network_or_a_mode_without_meaning_is_refused():
    ghn = build()
    with pytest.raises(ConfigError, match=r"ghn\.base\.hold"):
        ghn(trace(model(9), X), condition=[0.3])
    with pytest.raises(ConfigError, match="no parameter 'x'"):
        ghn.base.hold(model(), ["x"])
    with pytest.raises(ConfigError, match="magnitude='plain'"):
        ghn.config.replace(magnitude="bounded")
    with pytest.raises(ConfigError, match="scale"):
        BaseConfig(scale=0.0)
    with pytest.raises(ConfigError, match="shape for each"):
        BaseConfig(names=("a",))
