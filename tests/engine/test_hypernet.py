import pytest
import torch
from decoder_helpers import small_decoders
from torch import nn
from torch.func import functional_call

from ghn.decoders import LowRankDecoderConfig
from ghn.encoders import GatedGNNConfig, GraphormerConfig, PyGConfig
from ghn.engine import GHN, GHNConfig
from ghn.errors import ConfigError
from ghn.graphs import trace
from ghn.kernels import expand

DECODERS = small_decoders()
ENCODERS = {
    "graphormer": GraphormerConfig(dim=16, layers=1, heads=2),
    "gated_gnn": GatedGNNConfig(dim=16),
    "pyg": PyGConfig(dim=16, layers=1, conv="SAGEConv"),
}


class Attention(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return x + self.out(nn.functional.scaled_dot_product_attention(q, k, v))


def convnet():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.PReLU()),
        *(nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(2, 8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )


def transformer():
    return nn.Sequential(nn.Embedding(20, 8), nn.LayerNorm(8), Attention(), nn.Linear(8, 20))


def recurrent():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    return Net()


MODELS = {
    "convnet": (convnet, lambda: torch.randn(2, 3, 8, 8)),
    "transformer": (transformer, lambda: torch.arange(6)[None]),
    "recurrent": (recurrent, lambda: torch.randn(4, 2, 6)),
}


def graph_of(name):
    model, inputs = MODELS[name]
    return trace(model(), inputs())


def build(decoder="factor", encoder="graphormer", seed=0, **settings):
    torch.manual_seed(seed)
    return GHN(GHNConfig(encoder=ENCODERS[encoder], decoder=DECODERS[decoder], **settings))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_encoder_with_any_decoder_trains_a_network_through_its_parameters(encoder, decoder):
    ghn = build(decoder, encoder)
    graph = graph_of("convnet")
    model, inputs = MODELS["convnet"][0](), MODELS["convnet"][1]()

    parameters = ghn(graph)
    functional_call(model, parameters, (inputs,)).square().sum().backward()

    assert parameters.keys() == dict(model.named_parameters()).keys()
    assert all(parameters[n].shape == p.shape for n, p in model.named_parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in ghn.parameters())
    assert ghn.decoder.sections.role.weight.grad.any()
    assert ghn.encoder.input.operator.weight.grad.any()


@pytest.mark.parametrize("name", MODELS)
def test_emitted_networks_run_and_tell_inputs_apart(name):
    ghn = build()
    model, inputs = MODELS[name]

    with torch.no_grad():
        output = functional_call(model().eval(), ghn(graph_of(name)), (inputs(),))

    assert output.isfinite().all()
    assert output.reshape(-1, output.shape[-1]).std(0).min() > 0


@pytest.mark.parametrize("decoder", DECODERS)
def test_several_graphs_at_once_get_what_each_gets_alone(decoder):
    ghn = build(decoder)
    graphs = [graph_of(name) for name in MODELS]

    with torch.no_grad():
        together = ghn(graphs)
        alone = [ghn(graph) for graph in graphs]

    for one, other in zip(together, alone, strict=True):
        assert list(one) == list(other)
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_the_same_graph_twice_in_one_batch_is_no_clash():
    graph = graph_of("convnet")

    first, second = build()([graph, graph])

    for name in first:  # a product's last bits may depend on where in a batch it stands
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-6)


def test_recipes_expand_to_what_the_call_returns_and_carry_no_batch_axis():
    ghn, graph = build(), graph_of("transformer")

    recipes, tensors = ghn.recipes([graph])[0], ghn(graph)

    for name, tensor in tensors.items():
        assert recipes[name].layout.shape == graph.specs[name].shape
        torch.testing.assert_close(expand(recipes[name]), tensor)


def test_selected_parameters_are_the_same_as_among_all():
    ghn, graph = build(), graph_of("transformer")

    chosen = ghn.recipes([graph], select=lambda _, spec: spec.role == "bias")[0]

    everything = ghn.recipes([graph])[0]
    assert set(chosen) == {n for n, s in graph.specs.items() if s.role == "bias"}
    for name, recipe in chosen.items():
        torch.testing.assert_close(expand(recipe), expand(everything[name]))


def test_nothing_selected_and_no_graphs_give_nothing():
    ghn = build()

    assert ghn.recipes([graph_of("convnet")], select=lambda *_: False) == [{}]
    assert ghn.recipes([]) == []


def test_the_global_random_state_is_not_used():
    ghn, graph = build(), graph_of("convnet")
    state = torch.get_rng_state()

    ghn(graph)

    assert torch.equal(torch.get_rng_state(), state)


def test_tied_parameters_come_out_once():
    model = transformer()
    model[3].weight = model[0].weight
    graph = trace(model, torch.arange(6)[None])

    assert "3.weight" not in build()(graph)


def test_empty_parameters_are_left_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.none = nn.Linear(4, 3), nn.Parameter(torch.zeros(0, 3))

        def forward(self, x):
            return torch.cat([self.lin(x), self.none])

    assert set(build()(trace(Net(), torch.empty(2, 4)))) == {"lin.weight", "lin.bias"}


def test_a_scalar_parameter_comes_out_as_a_scalar():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.scale = nn.Linear(4, 3), nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.lin(x) * self.scale

    for decoder in DECODERS:
        assert build(decoder)(trace(Net(), torch.empty(2, 4)))["scale"].shape == ()


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_config_survives_json(decoder):
    config = build(decoder, "pyg", modality="text", spread=3.0).config

    assert GHNConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "settings",
    [{"spread": 1.0}, {"modality": "sound"}, {"decoder": LowRankDecoderConfig(dim=18)}],
)
def test_settings_that_contradict_are_refused(settings):
    with pytest.raises(ConfigError):
        GHNConfig(**settings)
