"""The gated GNN against a loop that visits one node at a time."""

from __future__ import annotations

import networkx
import pytest
import torch

from ghn.encoders.gated_gnn import GatedGNN, GatedGNNConfig
from ghn.errors import ConfigError
from ghn.graphs.batch import GraphBatch


def node_by_node(encoder, graph):
    """GHN-2's equations 3 and 4 as they stand, with networkx for order and distances."""
    reference = graph.to_networkx()
    h = list(encoder.input(GraphBatch.from_graphs([graph])))
    for _ in range(encoder.config.rounds):
        for view in (reference, reference.reverse()):
            distance = dict(networkx.all_pairs_shortest_path_length(view))
            for v in networkx.topological_sort(view):
                m = torch.zeros_like(h[v])
                for u in view.predecessors(v):
                    m = m + encoder.message(h[u])
                for u in view:
                    if 1 < distance[u].get(v, 0) <= encoder.config.cutoff:
                        m = m + encoder.virtual_message(h[u]) / distance[u][v]
                h[v] = encoder.update(m[None], h[v][None])[0]
    return encoder.norm(torch.stack(h))


@pytest.mark.parametrize(("rounds", "cutoff"), [(1, 50), (1, 3), (2, 4), (1, 1)])
def test_whole_levels_at_once_equal_one_node_at_a_time(random_graph, rounds, cutoff):
    torch.manual_seed(0)
    encoder = GatedGNN(GatedGNNConfig(dim=8, rounds=rounds, cutoff=cutoff))
    graphs = [random_graph(30, 0), random_graph(11, 1)]

    with torch.no_grad():
        found = encoder(GraphBatch.from_graphs(graphs))
        expected = torch.cat([node_by_node(encoder, graph) for graph in graphs])

    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_one_node_at_a_time(random_graph):
    torch.manual_seed(0)
    encoder = GatedGNN(GatedGNNConfig(dim=8, cutoff=4))
    graph = random_graph(20, 0)
    weights = torch.randn(20, 8)

    parameters = list(encoder.parameters())
    found = torch.autograd.grad(
        (encoder(GraphBatch.from_graphs([graph])) * weights).sum(), parameters
    )
    expected = torch.autograd.grad((node_by_node(encoder, graph) * weights).sum(), parameters)

    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-4, rtol=1e-4)


def test_a_cutoff_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        GatedGNNConfig(cutoff=0)
