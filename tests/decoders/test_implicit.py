"""What the implicit decoder promises beyond what every decoder does."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from decoder_helpers import DIM, NODES, SPECS, build, embeddings, emit

from ghn.decoders import ImplicitDecoderConfig, implicit
from ghn.decoders.field import features_of, places_of
from ghn.errors import ConfigError
from ghn.kernels import expand

SIZES = {"dim": DIM, "hidden": 24, "rank": 8}
FIELDS = ("separable", "joint")


def values(decoder, x, specs):
    return {key: expand(recipe)[0] for key, recipe in emit(decoder, x, specs).items()}


@pytest.mark.parametrize("field", FIELDS)
def test_noise_never_leads_to_another_parameter(field):
    decoder = build(ImplicitDecoderConfig(**SIZES, field=field, noise=50.0)).train()
    x = embeddings()
    node = SPECS["conv"].node
    elsewhere = x.clone()
    elsewhere[:, torch.arange(NODES) != node] += 3.0

    torch.manual_seed(1)
    before = values(decoder, x, SPECS)
    torch.manual_seed(1)
    after = values(decoder, elsewhere, SPECS)

    assert torch.equal(before["conv"], after["conv"])
    assert not torch.allclose(before["wide"], after["wide"])


@pytest.mark.parametrize("field", FIELDS)
def test_another_width_reads_the_same_function_at_other_places(field):
    decoder = build(ImplicitDecoderConfig(**SIZES, field=field))
    torch.nn.init.zeros_(decoder.sizes.weight)
    few = dataclasses.replace(SPECS["conv"], shape=(4, 5, 3, 3))
    many = dataclasses.replace(SPECS["conv"], shape=(12, 15, 3, 3))

    small = values(decoder, embeddings(), {"conv": few})["conv"]
    large = values(decoder, embeddings(), {"conv": many})["conv"]

    # The middle of every third of three times as many channels is where one of the few lies.
    torch.testing.assert_close(large[1::3, 1::3], small)


@pytest.mark.parametrize("field", FIELDS)
def test_a_pointwise_kernel_is_the_middle_of_a_larger_one(field):
    decoder = build(ImplicitDecoderConfig(**SIZES, field=field))
    square = SPECS["conv"]
    point = dataclasses.replace(square, shape=(12, 10, 1, 1))

    found = values(decoder, embeddings(), {"square": square, "point": point})

    torch.testing.assert_close(found["point"][..., 0, 0], found["square"][..., 1, 1])


def test_pairs_in_chunks_give_the_values_and_gradients_of_pairs_at_once(monkeypatch):
    decoder = build(ImplicitDecoderConfig(**SIZES, field="joint"))

    def run():
        decoder.zero_grad()
        x = embeddings().requires_grad_()
        found = values(decoder, x, {"tall": SPECS["tall"], "qkv": SPECS["qkv"]})
        sum(v.square().sum() for v in found.values()).backward()
        return found["tall"].detach(), x.grad, decoder.pairs.readout.weight.grad.clone()

    whole = run()
    monkeypatch.setattr(implicit, "CHUNK", 700)
    parts = run()

    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("field", FIELDS)
def test_evaluation_averages_over_draws_of_which_the_first_is_not_moved(field):
    still = build(ImplicitDecoderConfig(**SIZES, field=field)).eval()
    one = build(ImplicitDecoderConfig(**SIZES, field=field, noise=1.0)).eval()
    many = build(ImplicitDecoderConfig(**SIZES, field=field, noise=1.0, draws=5)).eval()
    specs = {"conv": SPECS["conv"]}

    expected = values(still, embeddings(), specs)["conv"]
    averaged = values(many, embeddings(), specs)["conv"]

    assert torch.equal(values(one, embeddings(), specs)["conv"], expected)
    assert torch.equal(values(many, embeddings(), specs)["conv"], averaged)
    assert (averaged - expected).abs().max() > 0.01


def test_axes_of_one_length_move_alike():
    decoder = build(ImplicitDecoderConfig(**SIZES, noise=1.0)).train()
    rows = dataclasses.replace(SPECS["wide"], shape=(9, 4))
    bias = dataclasses.replace(SPECS["qkv_bias"], shape=(9,), sections=1)

    torch.manual_seed(0)
    emit(decoder, embeddings(), {"rows": rows, "bias": bias})
    first = dict(decoder._places)
    torch.manual_seed(1)
    emit(decoder, embeddings(), {"rows": rows, "bias": bias})

    assert set(first) == {9, 4, 1}
    assert not torch.equal(first[9][0], decoder._places[9][0])


def test_float32_carries_the_waves_of_all_octaves_to_a_hundredth():
    places = places_of(2048)
    exact = torch.arange(2048, dtype=torch.float64).add(0.5).div(2048)
    angles = math.pi * exact[:, None] * 2.0 ** torch.arange(16)
    waves = math.sqrt(2.0) * torch.cat([angles.sin(), angles.cos()], 1)

    error = (features_of(places, 16)[:, 1:].double() - waves).abs().max()

    assert error < 1e-2
    with pytest.raises(ConfigError, match="bands"):
        ImplicitDecoderConfig(bands=17)


def test_an_unknown_form_of_field_is_refused():
    with pytest.raises(ConfigError, match="separable"):
        ImplicitDecoderConfig(field="dense")
