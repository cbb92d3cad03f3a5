import dataclasses

import pytest
import torch
from decoder_helpers import (
    NODES,
    SPECS,
    embeddings,
    emit,
    network_decoders,
    shifted,
    small_decoders,
)
from decoder_helpers import build as build_config

from ghn.decoders import DECODERS
from ghn.errors import ConfigError
from ghn.kernels import expand, mean_square

ANY_PARAMETERS = small_decoders()
CONFIGS = {**ANY_PARAMETERS, **network_decoders(SPECS)}
FILLED = {k: s for k, s in SPECS.items() if s.numel}


def build(name, seed=0, specs=SPECS):
    return build_config({**ANY_PARAMETERS, **network_decoders(specs)}[name], seed)


def test_every_registered_decoder_is_under_test():
    assert {d.Config for d in DECODERS.values()} == {type(c) for c in CONFIGS.values()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_kind_of_parameter_comes_out_in_its_stored_shape(name):
    recipes = emit(build(name), embeddings(batch=2), SPECS)

    assert set(recipes) == set(SPECS)
    for key, spec in SPECS.items():
        values = expand(recipes[key])
        assert values.shape == (2, *spec.shape), key
        assert values.isfinite().all(), key


@pytest.mark.parametrize("name", CONFIGS)
def test_a_decoder_says_whether_it_needs_all_parameters_of_a_network(name):
    assert build(name).single_graph == (name not in ANY_PARAMETERS)


@pytest.mark.parametrize("name", ANY_PARAMETERS)
def test_each_graph_of_a_batch_is_decoded_as_if_alone(name):
    decoder = build(name)
    first, second = embeddings(seed=1), embeddings(seed=2)
    together = {
        **{(0, k): s for k, s in SPECS.items()},
        **{(1, k): s for k, s in shifted(SPECS, NODES).items()},
    }

    both = emit(decoder, torch.cat([first, second], 1), together)

    for index, x in enumerate((first, second)):
        alone = emit(decoder, x, SPECS)
        for key in SPECS:
            torch.testing.assert_close(expand(both[index, key]), expand(alone[key]), msg=key)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_condition_of_a_batch_is_decoded_as_if_alone(name):
    decoder = build(name).double()  # in single precision the order of sums shows
    x = embeddings(batch=3).double()

    batch = emit(decoder, x, SPECS)

    for index in range(3):
        alone = emit(decoder, x[index : index + 1], SPECS)
        for key in SPECS:
            one = expand(batch[key])[index : index + 1]
            torch.testing.assert_close(one, expand(alone[key]), rtol=1e-5, atol=1e-6, msg=key)
    apart = expand(batch["conv"])
    assert (apart[0] - apart[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_of_the_decoder_and_the_embeddings_receive_gradients(name):
    decoder = build(name)
    x = embeddings().requires_grad_()

    recipes = emit(decoder, x, SPECS)
    generator = torch.Generator().manual_seed(0)
    loss = sum(
        (expand(r) * torch.randn(r.layout.shape, generator=generator)).sum()
        for r in recipes.values()
    )
    loss.backward()

    without = [n for n, p in decoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == (["weight_state"] if name == "recurrent_reset" else [])
    assert x.grad.abs().sum(-1).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_raw_values_start_with_a_root_mean_square_near_one(name):
    sizes = {"conv", "wide", "depthwise", "qkv", "stem", "gain", "head", "image_positions"}
    raw = []
    for seed in range(4):
        x = embeddings(seed=seed)
        if name == "dense":  # reads their mean, which is to be of size 1
            x = x[:, :1].expand(-1, NODES, -1)
        recipes = emit(build(name, seed), x, SPECS)
        raw += [mean_square(r).sqrt().item() for k, r in recipes.items() if k in sizes]

    assert 0.5 < sum(raw) / len(raw) < 2.0
    assert max(raw) < 8.0


@pytest.mark.parametrize("name", CONFIGS)
def test_nodes_roles_and_sections_tell_parameters_apart(name):
    base = FILLED["wide"]
    variants = {
        "base": base,
        "node": dataclasses.replace(base, node=2),
        "role": dataclasses.replace(base, role="recurrent_weight"),
        "fused": dataclasses.replace(base, sections=2),
    }

    decoder = build(name, specs=variants)
    values = {k: expand(r)[0] for k, r in emit(decoder, embeddings(), variants).items()}

    assert (values["base"] - values["node"]).abs().max() > 0.1
    assert (values["base"] - values["role"]).abs().max() > 0.1
    half = base.shape[0] // 2
    assert (values["fused"][:half] - values["fused"][half:]).abs().max() > 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_call_gives_the_same_bits(name):
    decoder = build(name)

    first, second = emit(decoder, embeddings(), SPECS), emit(decoder, embeddings(), SPECS)

    assert all(torch.equal(expand(first[k]), expand(second[k])) for k in SPECS)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_a_class_head_differ_beyond_any_table(name):
    many = dataclasses.replace(FILLED["head"], shape=(200, 16))

    decoder = build(name, specs={"head": many})
    rows = expand(emit(decoder, embeddings(), {"head": many})["head"])[0]

    assert len(rows.unique(dim=0)) == 200


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_survives_json_and_refuses_nonsense(name):
    config = CONFIGS[name]

    assert type(config).from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError):
        config.replace(dim=0)
