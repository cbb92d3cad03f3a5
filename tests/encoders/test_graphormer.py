"""The Graphormer against naive dense computations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ghn.encoders.graphormer import DistanceBias, Graphormer, GraphormerConfig
from ghn.errors import ConfigError
from ghn.graphs.batch import GraphBatch


def naive_bias(bias, distance):
    """Both distances of every pair of nodes through the tables: the dense [n, n, 2 d] way."""
    limited = distance.long().clamp(max=bias.max_distance)
    pairs = torch.cat([bias.forward_table[limited], bias.backward_table[limited.T]], dim=-1)
    return bias.to_heads(pairs).permute(2, 0, 1)


def naive_encoder(encoder, batch):
    """A textbook pre-norm transformer on one graph, one head at a time."""
    x = encoder.input(batch)
    biases = naive_bias(encoder.bias, batch.distances[0])
    for layer in encoder.layers:
        q, k, v = (layer.attention_norm(x) @ layer.qkv.weight.T).chunk(3, dim=1)
        heads = []
        size = x.shape[1] // len(biases)
        for i, bias in enumerate(biases):
            part = slice(i * size, (i + 1) * size)
            logits = q[:, part] @ k[:, part].T / math.sqrt(size) + bias
            heads.append(logits.softmax(dim=1) @ v[:, part])
        x = x + layer.out(torch.cat(heads, dim=1))
        norm, up, _, down = layer.mlp
        x = x + down(F.gelu(up(norm(x))))
    return encoder.norm(x)


@pytest.mark.parametrize("max_distance", [3, 256])
def test_the_bias_of_distinct_pairs_equals_the_dense_computation(random_graph, max_distance):
    torch.manual_seed(0)
    bias = DistanceBias(dim=16, heads=4, max_distance=max_distance)
    torch.nn.init.normal_(bias.forward_table)
    torch.nn.init.normal_(bias.backward_table)
    distances = GraphBatch.from_graphs([random_graph(30, 0), random_graph(50, 1)]).distances
    assert distances[0].max() > 3

    found = bias(distances)

    for one, distance in zip(found, distances, strict=True):
        torch.testing.assert_close(one, naive_bias(bias, distance))


def test_gradients_of_the_bias_equal_those_of_the_dense_computation(random_graph):
    torch.manual_seed(0)
    bias = DistanceBias(dim=16, heads=4, max_distance=4)
    (distance,) = GraphBatch.from_graphs([random_graph(30, 0)]).distances
    weights = torch.randn(4, 30, 30)

    (found,) = bias((distance,))
    parameters = list(bias.parameters())
    gradients = torch.autograd.grad((found * weights).sum(), parameters)
    expected = torch.autograd.grad((naive_bias(bias, distance) * weights).sum(), parameters)

    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-3, rtol=1e-4)


def test_distance_tables_start_as_sinusoids_with_no_path_at_zero():
    bias = DistanceBias(dim=16, heads=4, max_distance=10)

    assert not bias.forward_table[0].any()
    assert bias.forward_table[3, 0].item() == pytest.approx(math.sin(3))
    assert torch.equal(bias.forward_table, bias.backward_table)


def test_the_encoder_equals_a_plain_transformer_with_biased_logits(random_graph):
    torch.manual_seed(0)
    encoder = Graphormer(GraphormerConfig(dim=16, layers=2, heads=4, max_distance=6))
    batch = GraphBatch.from_graphs([random_graph(40, 0)])

    torch.testing.assert_close(encoder(batch), naive_encoder(encoder, batch), atol=1e-5, rtol=1e-5)


def test_heads_that_do_not_divide_the_size_are_refused():
    with pytest.raises(ConfigError, match="multiple of heads=5"):
        GraphormerConfig(dim=64, heads=5)
