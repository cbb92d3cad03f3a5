"""Every method says where it stands on the five axes, and stands there when it is probed."""

import dataclasses
import json

import pytest
import torch
from axes_probe import graph_of, probe
from typer.testing import CliRunner

from ghn.axes import Axes
from ghn.cli import app
from ghn.conditioning import (
    CONDITIONS,
    ENTRIES,
    EmbeddingTableConfig,
    ImageEncoderConfig,
    NoiseConfig,
    UnitConfig,
    VectorEncoderConfig,
)
from ghn.decoders import DECODERS, ChunkedDecoderConfig, LowRankDecoderConfig
from ghn.encoders import ENCODERS, FixedCodesConfig, GatedGNNConfig
from ghn.engine import GHN, GHNConfig
from ghn.errors import ConfigError
from ghn.methods import METHODS

GRAPH = graph_of()
KINDS = [(name, kind) for name, method in METHODS.items() for kind in method.kinds]


def test_every_method_stands_somewhere():
    assert [name for name, method in METHODS.items() if not method.kinds] == []
    assert {"prediction", "continual", "mip"} <= set(METHODS)


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=lambda x: x)
def test_a_method_stands_where_it_says_when_it_is_probed(name, kind):
    torch.manual_seed(0)
    ghn = METHODS[name].build(kind, GRAPH)

    found = probe(ghn, GRAPH)

    assert found == METHODS[name].kinds[kind]
    assert found == ghn.describe().axes


COMBINATIONS = {
    "images": {"condition": ImageEncoderConfig(dim=6, width=4)},
    "noise": {"condition": UnitConfig(of=NoiseConfig(dim=6))},
    "numbers by attention": {
        "condition": VectorEncoderConfig(inputs=4, dim=6, tokens=3),
        "entry": "cross_attention",
    },
    "names and messages": {
        "condition": EmbeddingTableConfig(dim=6, names=("a", "b", "c")),
        "encoder": GatedGNNConfig(dim=16),
    },
}


@pytest.mark.parametrize("decoder", ["chunked", "lowrank"])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_an_engine_of_any_parts_describes_itself_as_it_is_probed(name, decoder):
    settings = {"encoder": FixedCodesConfig(dim=16), **COMBINATIONS[name]}
    dim = 16 if "entry" in settings else 22
    decoders = {
        "chunked": ChunkedDecoderConfig(dim=dim, hidden=(16,), chunk=32),
        "lowrank": LowRankDecoderConfig(dim=dim, hidden=16, rank=4, rows=32),
    }
    torch.manual_seed(0)
    ghn = GHN(GHNConfig(decoder=decoders[decoder], magnitude="plain", **settings))

    assert probe(ghn, GRAPH) == ghn.describe().axes


def test_every_registered_part_says_its_share():
    assert [n for n, part in DECODERS.items() if not hasattr(part, "pieces")] == []
    assert [n for n, part in DECODERS.items() if not hasattr(part, "any_network")] == []
    # A unit takes its share from the condition that it wraps.
    conditions = {n: c for n, c in CONDITIONS.items() if n != "unit"}
    assert [n for n, part in conditions.items() if not hasattr(part, "source")] == []
    assert [n for n, part in conditions.items() if not hasattr(part, "is_open")] == []
    for registry in (DECODERS, CONDITIONS, ENTRIES, ENCODERS):
        for part in registry.values():
            kinds = getattr(part, "architecture", ())
            Axes(**{**dataclasses.asdict(METHODS["mip"].kinds["dense"]), "architecture": kinds})


def test_the_probe_tells_a_lie_from_the_truth(monkeypatch):
    torch.manual_seed(0)
    ghn = METHODS["continual"].build("chunked", GRAPH)
    monkeypatch.setattr(type(ghn.decoder), "pieces", "component")
    monkeypatch.setattr(type(ghn.condition), "is_open", True)

    said, found = ghn.describe().axes, probe(ghn, GRAPH)

    assert (said.outputs, said.input_variability) == ("component", "dynamic")
    assert (found.outputs, found.input_variability) == ("chunk", "static")


def test_a_description_prints_axes_stages_and_size():
    ghn = METHODS["mip"].build("dense", GRAPH)

    text = str(ghn.describe())

    assert "output variability  static" in text
    assert "decoder             DenseDecoder" in text
    assert f"{sum(p.numel() for p in ghn.parameters()):,}" in text
    assert json.loads(json.dumps(ghn.describe().to_dict()))["stages"]["base"] == "Base"


def test_the_command_lists_every_kind():
    plain = CliRunner().invoke(app, ["methods"])
    data = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)

    assert all(kind in plain.stdout for _, kind in KINDS)
    assert data["prediction"]["kinds"]["ghn3"]["architecture"] == ["attention"]
    assert set(data) == set(METHODS)


@pytest.mark.parametrize(
    "change", [{"inputs": "magic"}, {"outputs": "twice"}, {"architecture": ("rnn", "cnn")}]
)
def test_words_that_mean_nothing_are_refused(change):
    with pytest.raises(ConfigError):
        dataclasses.replace(METHODS["mip"].kinds["dense"], **change)
