"""What every registered encoder must do."""

from __future__ import annotations

import dataclasses
import json

import networkx
import numpy as np
import pytest
import torch

from ghn.encoders import ENCODERS
from ghn.errors import ConfigError, UnknownNameError
from ghn.graphs import ParamGraph
from ghn.graphs.batch import GraphBatch

DIM = 16


@pytest.fixture(params=sorted(ENCODERS))
def encoder(request):
    cls = ENCODERS[request.param]
    torch.manual_seed(0)
    encoder = cls(cls.Config(dim=DIM))
    with torch.no_grad():  # zero tables would hide that an input is ignored
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def reordered(graph, seed):
    """The same graph with its nodes in another topological order, and the new order."""
    keys = np.random.default_rng(seed).permutation(len(graph.nodes))
    order = list(
        networkx.lexicographical_topological_sort(graph.to_networkx(), key=lambda i: keys[i])
    )
    place = {old: new for new, old in enumerate(order)}
    edges = sorted((place[u], place[v]) for u, v in graph.edges)
    return ParamGraph([graph.nodes[i] for i in order], edges, graph.specs), order


def test_the_registry_holds_what_the_documentation_names():
    assert set(ENCODERS) == {"graphormer", "gated_gnn", "pyg", "fixed"}
    with pytest.raises(UnknownNameError, match="Did you mean 'graphormer'"):
        ENCODERS["graphomer"]


def test_every_node_gets_one_finite_vector_of_the_configured_size(encoder, random_graph):
    batch = GraphBatch.from_graphs([random_graph(20, 0), random_graph(9, 1)])

    embeddings = encoder(batch)

    assert embeddings.shape == (29, DIM)
    assert embeddings.isfinite().all()
    assert embeddings.std(dim=0).min() > 1e-3  # nodes differ


def test_a_batch_of_unequal_graphs_encodes_like_each_graph_alone(encoder, random_graph):
    graphs = [random_graph(size, seed) for seed, size in enumerate((40, 1, 13, 2, 90))]

    together = encoder(GraphBatch.from_graphs(graphs)).split([len(g.nodes) for g in graphs])

    for graph, part in zip(graphs, together, strict=True):
        alone = encoder(GraphBatch.from_graphs([graph]))
        torch.testing.assert_close(part, alone, atol=1e-5, rtol=1e-5)


def test_embeddings_follow_their_nodes_when_the_graph_is_reordered(encoder, random_graph):
    graph = random_graph(40, 0)
    other, order = reordered(graph, seed=1)
    assert order != sorted(order)

    embeddings = encoder(GraphBatch.from_graphs([graph]))
    permuted = encoder(GraphBatch.from_graphs([other]))

    torch.testing.assert_close(permuted, embeddings[order], atol=1e-5, rtol=1e-5)


def test_reversing_every_edge_changes_the_embeddings(encoder, random_graph):
    graph = random_graph(30, 0)
    last = len(graph.nodes) - 1
    edges = sorted((last - v, last - u) for u, v in graph.edges)
    mirrored = ParamGraph(graph.nodes[::-1], edges, graph.specs)

    # Degrees and depth are made equal, so that only the direction of the edges is left.
    one = torch.ones(30, dtype=torch.int64)
    first, second = (
        encoder(
            dataclasses.replace(
                GraphBatch.from_graphs([g]), in_degree=one, out_degree=one, depth=one
            )
        )
        for g in (graph, mirrored)
    )

    assert (first - second.flip(0)).abs().max() > 1e-2


def test_gradients_reach_every_parameter(encoder, random_graph):
    if not list(encoder.parameters()):
        pytest.skip("has none")
    batch = GraphBatch.from_graphs([random_graph(40, 0), random_graph(25, 1)])
    embeddings = encoder(batch)
    weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))

    (embeddings * weights).sum().backward()

    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-5, name


def test_settings_and_state_rebuild_the_same_encoder(encoder, random_graph):
    batch = GraphBatch.from_graphs([random_graph(20, 0)])
    settings = json.loads(json.dumps(encoder.config.to_dict()))

    rebuilt = type(encoder)(type(encoder).Config.from_dict(settings))
    rebuilt.load_state_dict(encoder.state_dict())

    assert rebuilt.config == encoder.config
    assert torch.equal(rebuilt(batch), encoder(batch))


def test_an_encoder_runs_in_bfloat16(encoder, random_graph):
    batch = GraphBatch.from_graphs([random_graph(20, 0)])
    expected = encoder(batch)

    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(batch)
    low = encoder.bfloat16()(batch)

    for found in (mixed.float(), low.float()):
        assert (found - expected).abs().mean() < 0.1


@pytest.mark.parametrize("name", sorted(ENCODERS))
@pytest.mark.parametrize("dim", [0, 7])
def test_a_size_that_is_odd_or_not_positive_is_refused(name, dim):
    with pytest.raises(ConfigError, match="dim"):
        ENCODERS[name].Config(dim=dim)
