import pytest
import torch
from decoder_helpers import DIM, build, embeddings, emit, spec

from ghn.decoders import ChunkedDecoderConfig, DenseDecoderConfig
from ghn.decoders.chunks import as_recipes, cut
from ghn.errors import ConfigError
from ghn.kernels import expand

SPECS = {
    "late": spec((4, 3), "oi", node=2),
    "early": spec((5, 2), "oi", node=1),
    "bias": spec((5,), "o", "bias", node=1),
    "twin": spec((4, 3), "oi", node=3),
}


def test_straddling_chunks_are_one_vector_in_topological_order():
    plan = cut(SPECS, 8, straddle=True)
    values = torch.arange(plan.count * 8.0).reshape(1, plan.count, 8)

    found = as_recipes(values, SPECS, plan)

    parts = {
        key: expand(recipe)[0, place]
        for keys, recipe in found.items()
        for place, key in enumerate(keys)
    }
    joined = torch.cat([parts[k].flatten() for k in ("early", "bias", "late", "twin")])
    assert plan.count == 5  # 39 numbers
    assert joined.tolist() == list(range(39))
    assert ("late", "twin") in found


def test_chunks_from_the_graph_belong_to_one_parameter_each():
    plan = cut(SPECS, 8, straddle=False)

    assert plan.tensors == (0, 0, 1, 2, 2, 3, 3)
    assert plan.nodes == (1, 1, 1, 2, 2, 3, 3)
    assert plan.lengths == (10, 6, 5, 3, 12, 4, 12, 4)
    assert plan.pieces == (4, 0, 2, 6)
    assert len(plan.places.unique(dim=0)) == plan.count


def test_chunks_of_a_large_tensor_have_places_of_their_own():
    plan = cut({"large": spec((300, 100), "oi")}, 64, straddle=False)

    assert plan.count == 469
    distance = torch.cdist(plan.places, plan.places) + torch.eye(plan.count)
    assert distance.min() > 0.02


def test_a_chunked_decoder_is_one_network_over_condition_and_code():
    decoder = build(ChunkedDecoderConfig(dim=DIM, hidden=(), chunk=13, codes=3, code_dim=4))
    x = embeddings(batch=2, nodes=1).expand(-1, 4, -1)

    values = expand(emit(decoder, x, SPECS)["early"])

    inputs = torch.cat([x[1, 0], decoder.codes.table[0]])
    expected = decoder.readout.weight @ inputs + decoder.readout.bias
    torch.testing.assert_close(values[1].flatten(), expected[:10])


def test_learned_codes_and_a_dense_decoder_refuse_another_network():
    other = {**SPECS, "more": spec((9, 9), "oi", node=3)}

    with pytest.raises(ConfigError, match="3 chunks of 13 numbers, this network needs 10"):
        build(ChunkedDecoderConfig(dim=DIM, chunk=13, codes=3))(embeddings(), other)
    with pytest.raises(ConfigError, match="emits 39 parameters, the network has 120"):
        build(DenseDecoderConfig(dim=DIM, outputs=39))(embeddings(), other)
