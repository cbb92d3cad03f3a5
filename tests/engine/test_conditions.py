import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from ghn.conditioning import EmbeddingTableConfig, ImageEncoderConfig, VectorEncoderConfig
from ghn.decoders import (
    ChunkedDecoderConfig,
    DenseDecoderConfig,
    LowRankDecoderConfig,
    RecurrentDecoderConfig,
    TiledDecoderConfig,
)
from ghn.encoders import GraphormerConfig
from ghn.engine import GHN, GHNConfig, predict_params, predict_state_dict
from ghn.engine.magnitude import SMALL
from ghn.errors import ConfigError, UnknownNameError
from ghn.graphs import trace
from ghn.kernels import expand

TABLE = EmbeddingTableConfig(dim=6, names=("a", "b", "c"))
GRAPHORMER = GraphormerConfig(dim=16, layers=1, heads=2)


def model():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(8, 5)),
    )


GRAPH = trace(model(), torch.empty(2, 3, 8, 8))
TOTAL = GRAPH.num_parameters
DECODERS = {
    "lowrank": LowRankDecoderConfig(dim=22, hidden=16, rank=4, rows=32),
    "tiled": TiledDecoderConfig(dim=22, hidden=16, block=8),
    "dense": DenseDecoderConfig(dim=22, outputs=TOTAL),
    "chunked": ChunkedDecoderConfig(dim=22, hidden=(16,), chunk=50),
    "recurrent": RecurrentDecoderConfig(dim=22, state=16, chunk=50),
}


def build(decoder="recurrent", magnitude="plain", seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"encoder": GRAPHORMER, "condition": TABLE, **settings}
    return GHN(GHNConfig(decoder=DECODERS[decoder], magnitude=magnitude, **settings))


@pytest.mark.parametrize("magnitude", ["plain", "bounded"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_of_conditions_gives_what_each_gives_alone(decoder, magnitude):
    ghn = build(decoder, magnitude)

    batch = ghn(GRAPH, condition=["c", "a"])

    assert {n: t.shape for n, t in batch.items()} == {
        n: (2, *s.shape) for n, s in GRAPH.specs.items()
    }
    for index, name in enumerate(["c", "a"]):
        alone = ghn(GRAPH, condition=name)
        for key, tensor in alone.items():
            assert tensor.shape == GRAPH.specs[key].shape
            torch.testing.assert_close(batch[key][index], tensor, rtol=1e-4, atol=1e-6)
    assert (batch["5.weight"][0] - batch["5.weight"][1]).abs().max() > 1e-4


@pytest.mark.parametrize("decoder", DECODERS)
def test_recipes_of_a_batch_carry_its_axis_and_expand_to_the_call(decoder):
    ghn = build(decoder)

    recipes = ghn.recipes([GRAPH], condition=["a", "b"])[0]
    single = ghn.recipes([GRAPH], condition="b")[0]

    tensors = ghn(GRAPH, condition=["a", "b"])
    for name, tensor in tensors.items():
        torch.testing.assert_close(expand(recipes[name]), tensor)
        torch.testing.assert_close(expand(single[name]), tensor[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decoder", DECODERS)
def test_selected_parameters_are_the_same_as_among_all(decoder):
    ghn = build(decoder)

    chosen = ghn.recipes([GRAPH], select=lambda _, s: s.role == "weight", condition=["a", "b"])[0]

    everything = ghn.recipes([GRAPH], condition=["a", "b"])[0]
    assert set(chosen) == {"0.weight", "5.weight"}
    for name, recipe in chosen.items():
        torch.testing.assert_close(expand(recipe), expand(everything[name]))


@pytest.mark.parametrize("decoder", ["chunked", "recurrent"])
def test_decoders_of_one_network_take_several_one_after_another(decoder):
    ghn = build(decoder)
    other = trace(nn.Linear(4, 3), torch.empty(2, 4))

    both = ghn([GRAPH, other], condition="a")

    for together, graph in zip(both, (GRAPH, other), strict=True):
        for name, tensor in ghn(graph, condition="a").items():
            torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("entry", ["concatenation", "addition", "film", "cross_attention"])
@pytest.mark.parametrize("kind", ["table", "vector", "image"])
def test_any_condition_enters_in_any_way_and_receives_gradients(kind, entry):
    condition, value = {
        "table": (TABLE, ["a", "c"]),
        "vector": (VectorEncoderConfig(inputs=2, dim=6), torch.randn(2, 2)),
        "image": (ImageEncoderConfig(dim=6, width=4), torch.randn(2, 3, 16, 16)),
    }[kind]
    dim = 22 if entry == "concatenation" else 16
    decoder = RecurrentDecoderConfig(dim=dim, state=16, chunk=50)
    torch.manual_seed(0)
    ghn = GHN(GHNConfig(encoder=GRAPHORMER, condition=condition, entry=entry, decoder=decoder))

    emitted = ghn(GRAPH, condition=value)
    sum(t.square().sum() for t in emitted.values()).backward()

    assert (emitted["0.weight"][0] - emitted["0.weight"][1]).abs().max() > 1e-6
    assert any(p.grad is not None and p.grad.any() for p in ghn.condition.parameters())


def test_a_condition_alone_is_enough_without_an_encoder():
    decoder = DenseDecoderConfig(dim=6, hidden=(7,), outputs=TOTAL)
    ghn = GHN(GHNConfig(encoder=None, condition=TABLE, decoder=decoder, magnitude="plain"))

    values = ghn(GRAPH, condition="b")

    hidden = torch.relu(ghn.decoder.body[0](ghn.condition.encode("b")[0]))
    head = ghn.decoder.readout(hidden)[0, -5:]
    torch.testing.assert_close(values["5.bias"], SMALL * head)


def test_published_sizes_come_out_by_instantiation():
    def count(condition, rows, decoder):
        table = EmbeddingTableConfig(dim=condition, names=tuple(map(str, range(rows))))
        config = GHNConfig(encoder=None, condition=table, decoder=decoder, magnitude="plain")
        return sum(p.numel() for p in GHN(config).parameters())

    chunked, recurrent = ChunkedDecoderConfig, RecurrentDecoderConfig
    lstm = recurrent(dim=24, state=48, chunk=256, codes=25, code_dim=8)
    resnet = chunked(dim=32, hidden=(), chunk=7000, codes=67, code_dim=32)
    mnist = chunked(dim=96, hidden=(10, 10), chunk=42_000, codes=12, code_dim=96)
    pusher = DenseDecoderConfig(dim=10, hidden=(50, 50), outputs=44_810)
    assert count(24, 10, lstm) == 28_728
    assert count(32, 6, resnet) == 457_336
    assert count(96, 5, mnist) == 465_672
    assert count(10, 0, pusher) == 2_288_410


def test_what_was_added_and_grown_is_saved_and_loaded(tmp_path):
    ghn = build()
    ghn.condition.add("d")
    ghn.condition.freeze("a")
    ghn.decoder.grow(8)
    ghn.save_pretrained(tmp_path)

    loaded = GHN.from_pretrained(tmp_path)

    assert loaded.config == ghn.config
    assert loaded.condition.names == ["a", "b", "c", "d"]
    assert loaded.condition.frozen == ["a"]
    for name in "abcd":
        one, other = ghn(GRAPH, condition=name), loaded(GRAPH, condition=name)
        assert all(torch.equal(one[k], other[k]) for k in one)


def test_the_plain_magnitude_is_the_raw_value_times_a_constant():
    ghn = build("chunked")
    raw = {}
    original = ghn.decoder.forward

    def spy(embeddings, specs):
        found = original(embeddings, specs)
        for keys, recipe in found.items():
            for place, (_, name) in enumerate(keys):
                raw[name] = expand(recipe)[0, place]
        return found

    ghn.decoder.forward = spy
    emitted = ghn(GRAPH, condition="a")

    torch.testing.assert_close(emitted["0.weight"], raw["0.weight"] * (1 / (6 * 27)) ** 0.5)
    torch.testing.assert_close(emitted["1.weight"], 1 + 0.1 * raw["1.weight"])
    torch.testing.assert_close(emitted["1.bias"], 0.05 * raw["1.bias"])
    torch.testing.assert_close(emitted["5.weight"], raw["5.weight"] * (1 / 32) ** 0.5)


def test_predict_params_takes_one_condition_and_writes_its_parameters():
    ghn, target = build(), model()

    report = predict_params(target, torch.empty(2, 3, 8, 8), checkpoint=ghn, condition="b")

    expected = ghn(GRAPH, condition="b")
    assert set(report.predicted) == set(expected)
    for name, parameter in target.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-6)
    state = predict_state_dict(target, torch.empty(2, 3, 8, 8), checkpoint=ghn, condition="b")
    torch.testing.assert_close(state["5.weight"], expected["5.weight"], rtol=1e-4, atol=1e-6)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(functional_call(target, expected, (x,)), target(x))


@pytest.mark.parametrize(
    ("condition", "error", "words"),
    [
        (None, ConfigError, "needs condition="),
        (["a", "b"], ConfigError, "batch"),
        ("z", UnknownNameError, "Registered: a, b, c"),
    ],
)
def test_predict_params_refuses_what_is_no_single_condition(condition, error, words):
    ghn, target = build(), model()
    before = copy.deepcopy(target.state_dict())

    with pytest.raises(error, match=words):
        predict_params(target, torch.empty(2, 3, 8, 8), checkpoint=ghn, condition=condition)

    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_a_hypernetwork_without_a_condition_refuses_one():
    ghn = GHN(GHNConfig(encoder=GRAPHORMER, decoder=DECODERS["lowrank"].replace(dim=16)))

    with pytest.raises(ConfigError, match="takes none"):
        ghn(GRAPH, condition="a")


@pytest.mark.parametrize(
    "settings",
    [
        {"entry": "addition"},  # the decoder takes 22 numbers, nodes then have 16
        {"entry": "telepathy"},
        {"magnitude": "huge"},
        {"condition": VectorEncoderConfig(dim=6, tokens=3)},
    ],
)
def test_settings_that_contradict_are_refused(settings):
    with pytest.raises((ConfigError, UnknownNameError)):
        build(**settings)


def test_a_config_with_a_condition_survives_json():
    for name in DECODERS:
        config = build(name).config
        assert GHNConfig.from_dict(config.to_dict()) == config
