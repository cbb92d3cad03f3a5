"""Distances against networkx, closed forms and the documented limits."""

from __future__ import annotations

import networkx
import numpy as np
import pytest

from ghn.errors import ConfigError
from ghn.graphs import Node, ParamGraph
from ghn.graphs import distances as module
from ghn.graphs.distances import shortest_distances


def random_graph(size, seed, edges_per_node=1.2):
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.integers(0, size, size=(int(size * edges_per_node), 2)), axis=1)
    edges = sorted({(int(u), int(v)) for u, v in pairs if u < v})
    return ParamGraph([Node("add")] * size, edges, {})


def by_networkx(graph):
    size = len(graph.nodes)
    expected = np.zeros((size, size), dtype=np.int16)
    for u, lengths in networkx.all_pairs_shortest_path_length(graph.to_networkx()):
        for v, length in lengths.items():
            expected[u, v] = length
    return expected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("edges_per_node", [0.6, 1.5, 4.0])
def test_distances_equal_those_of_networkx(seed, edges_per_node):
    graph = random_graph(60, seed, edges_per_node)

    distances = shortest_distances(graph)

    assert distances.dtype == np.int16
    assert np.array_equal(distances, by_networkx(graph))


def test_blocks_of_sources_join_without_a_seam(monkeypatch):
    graph = random_graph(60, seed=0)
    monkeypatch.setattr(module, "SOURCES_AT_ONCE", 7)

    assert np.array_equal(shortest_distances(graph), by_networkx(graph))


def test_a_chain_of_two_thousand_nodes_has_the_distance_of_its_indices():
    size = 2000
    graph = ParamGraph([Node("add")] * size, [(i, i + 1) for i in range(size - 1)], {})

    distances = shortest_distances(graph)

    steps = np.arange(size)[None, :] - np.arange(size)[:, None]
    assert np.array_equal(distances, steps.clip(min=0))


def test_paths_beyond_the_limit_count_as_long_as_the_limit():
    graph = random_graph(80, seed=1, edges_per_node=1.5)

    assert by_networkx(graph).max() > 3
    assert np.array_equal(shortest_distances(graph, limit=3), by_networkx(graph).clip(max=3))


@pytest.mark.parametrize("limit", [0, -1, 32768])
def test_a_limit_outside_int16_is_refused(limit):
    with pytest.raises(ConfigError, match="limit"):
        shortest_distances(random_graph(5, seed=0), limit)


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_graph_without_edges_has_no_distances(size):
    distances = shortest_distances(ParamGraph([Node("add")] * size, [], {}))

    assert distances.shape == (size, size)
    assert not distances.any()
