import math

import pytest
import torch
from torch import nn

from ghn import diagnose_magnitude
from ghn.conditioning import (
    EmbeddingTableConfig,
    ImageEncoderConfig,
    NoiseConfig,
    UnitConfig,
    ValuesConfig,
    VectorEncoderConfig,
)
from ghn.decoders import (
    ChunkedDecoderConfig,
    DenseDecoderConfig,
    LowRankDecoderConfig,
    RecurrentDecoderConfig,
    TiledDecoderConfig,
)
from ghn.encoders import FixedCodesConfig
from ghn.engine import GHN, BaseConfig, GHNConfig
from ghn.errors import ConfigError
from ghn.graphs import trace

SEEDS = range(5)


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


GRAPH = trace(network(), torch.empty(2, 6))
RAW, CIRCLE = ValuesConfig(encoding="raw"), ValuesConfig()


def build(seed, condition, base=None, decoder=None, encoder=None, entry="concatenation"):
    torch.manual_seed(seed)
    dim = condition.dim + (8 if encoder else 0) if entry == "concatenation" else 8
    decoder = decoder or DenseDecoderConfig(hidden=(128, 128), outputs=GRAPH.num_parameters)
    config = GHNConfig(
        encoder=encoder,
        condition=condition,
        decoder=decoder.replace(dim=dim),
        base=base,
        magnitude="plain",
        entry=entry,
    )
    ghn = GHN(config)
    if base:
        ghn.base.hold(network())
    return ghn


@pytest.mark.parametrize("seed", SEEDS)
def test_changes_are_proportional_to_the_condition_unless_it_has_one_length(seed):
    base = BaseConfig()

    slopes = {
        name: diagnose_magnitude(build(seed, *arm), GRAPH).slope
        for name, arm in {
            "default": (RAW, None),
            "additive": (RAW, base),
            "encoding": (CIRCLE, None),
            "mip": (CIRCLE, base),
        }.items()
    }

    assert 0.99 <= slopes["default"] <= 1.01
    assert 0.99 <= slopes["additive"] <= 1.01  # a base alone changes nothing
    assert abs(slopes["encoding"]) < 0.1
    assert abs(slopes["mip"]) < 0.1


@pytest.mark.parametrize("entry", ["concatenation", "addition", "film", "cross_attention"])
@pytest.mark.parametrize(
    "decoder",
    [
        ChunkedDecoderConfig(hidden=(32,), chunk=20),
        RecurrentDecoderConfig(state=16, chunk=20),
        LowRankDecoderConfig(hidden=32, rank=4, rows=32),
        TiledDecoderConfig(hidden=32, block=8),
        DenseDecoderConfig(hidden=(32,), outputs=GRAPH.num_parameters),
    ],
    ids=lambda d: type(d).__name__,
)
def test_with_points_of_circles_no_decoder_follows_the_size_of_its_condition(decoder, entry):
    ghn = build(0, CIRCLE, BaseConfig(), decoder, FixedCodesConfig(dim=8), entry)

    assert abs(diagnose_magnitude(ghn, GRAPH).slope) < 0.1


def growing(*shape):
    direction = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    return torch.logspace(-2, 0, 7).reshape(-1, *[1] * len(shape)) * direction


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        (ValuesConfig(inputs=5, encoding="raw"), growing(5)),
        (NoiseConfig(dim=5), growing(5)),
        (EmbeddingTableConfig(dim=5), growing(5)),
        (VectorEncoderConfig(inputs=5, hidden=()), growing(5)),
        (ImageEncoderConfig(width=4), growing(3, 8, 8)),
    ],
    ids=lambda c: type(c).__name__ if hasattr(c, "dim") else "",
)
def test_any_condition_at_unit_length_leaves_only_what_it_says(condition, values):
    ghn = build(0, UnitConfig(of=condition), BaseConfig())
    if isinstance(condition, EmbeddingTableConfig):
        for number, row in enumerate(values):
            ghn.condition.of.add(str(number), row)
        values = [str(number) for number in range(len(values))]
    if isinstance(condition, VectorEncoderConfig):
        nn.init.zeros_(ghn.condition.of.mlp[0].bias)

    assert abs(diagnose_magnitude(ghn, GRAPH, values).slope) < 0.1


def test_the_slope_is_that_of_the_norms_it_reports():
    found = diagnose_magnitude(build(0, RAW, BaseConfig()), GRAPH)

    x = [math.log(m) for m in found.magnitudes]
    y = [math.log(c) for c in found.changes]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    assert found.slope == pytest.approx(covariance / sum((a - mean_x) ** 2 for a in x))
    assert found.magnitudes[0] == pytest.approx(0.01)
    assert set(found.slopes) == set(GRAPH.specs)
    assert found.slopes["1.weight"] == pytest.approx(1.0, abs=0.01)


def test_it_measures_the_change_and_not_the_sum():
    ghn = build(0, RAW, BaseConfig())
    ones = torch.ones(1, 1)
    before = ghn(GRAPH, condition=ones)
    change = diagnose_magnitude(ghn, GRAPH, torch.cat([ones, 0.5 * ones])).changes[0]

    held = dict(zip(ghn.base.names, ghn.base.tensors, strict=True))
    squares = sum((before[name][0] - held[name]).square().sum() for name in held)

    assert change == pytest.approx(float(squares.detach().sqrt()), rel=1e-4)


def test_the_picture_is_written_and_names_the_slope(tmp_path):
    found = diagnose_magnitude(build(0, RAW), GRAPH)

    svg = found.plot(tmp_path / "slope.svg")

    assert "slope 1.000" in svg
    assert (tmp_path / "slope.svg").read_text() == svg


def test_what_has_no_slope_is_refused():
    table = build(0, EmbeddingTableConfig(names=("a", "b")))
    with pytest.raises(ConfigError, match="pass conditions="):
        diagnose_magnitude(table, GRAPH)
    with pytest.raises(ConfigError, match="different size"):
        diagnose_magnitude(build(0, RAW), GRAPH, torch.ones(3, 1))
    silent = build(0, RAW)
    nn.init.zeros_(silent.decoder.readout.weight)
    with pytest.raises(ConfigError, match="nothing is emitted"):
        diagnose_magnitude(silent, GRAPH)
