"""Batches against hand-computed features, networkx, and each graph alone."""

from __future__ import annotations

import dataclasses
import math

import networkx
import numpy as np
import pytest
import torch

from ghn.errors import InputError
from ghn.graphs import OPERATORS, Node, ParamGraph, ParamSpec, batch
from ghn.graphs.batch import FEATURES, GraphBatch


def convnet():
    """input -> conv -> relu -> add -> output, with conv also feeding add directly."""
    nodes = [
        Node("input"),
        Node(
            "conv",
            attributes={"kernel": (7, 5), "stride": (2, 1), "groups": 4},
            parameters=(("conv.weight", "weight"), ("conv.bias", "bias")),
        ),
        Node("relu"),
        Node("add"),
        Node("output"),
    ]
    specs = {
        "conv.weight": ParamSpec(
            "conv.weight", (32, 3, 7, 5), "float32", 1, "weight", "oikk", 105, groups=4, stem=True
        ),
        "conv.bias": ParamSpec("conv.bias", (32,), "float32", 1, "bias", "o"),
    }
    return ParamGraph(nodes, [(0, 1), (1, 2), (1, 3), (2, 3), (3, 4)], specs)


def random_graph(size, seed, inputs=2):
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.integers(0, size, size=(size * 2, 2)), axis=1)
    edges = sorted({(int(u), int(v)) for u, v in pairs if u < v and v >= inputs})
    nodes = [Node("input" if i < inputs else "add") for i in range(size)]
    return ParamGraph(nodes, edges, {})


def features_of(graph, node):
    row = GraphBatch.from_graphs([graph]).features[node]
    return dict(zip(FEATURES, row.tolist(), strict=True))


def test_features_are_scaled_logarithms_of_what_the_operator_is():
    raw = {
        "out": 32, "in": 3, "kernel_height": 7, "kernel_width": 5, "stride": 2, "groups": 4,
        "sections": 1, "fan_in": 105, "elements": 32 * 3 * 35 + 32, "tensors": 2, "stem": 1,
    }  # fmt: skip

    found = features_of(convnet(), 1)

    for name, (scale, _) in FEATURES.items():
        assert found[name] == pytest.approx(math.log2(1 + raw.get(name, 0)) / scale), name


def test_an_operator_without_parameters_keeps_its_own_attributes_only():
    pool = Node("max_pool", attributes={"kernel": 3, "stride": 2})

    found = features_of(ParamGraph([pool], [], {}), 0)

    assert {name for name, value in found.items() if value} == {"kernel_width", "stride"}
    assert found["kernel_width"] == pytest.approx(2 / FEATURES["kernel_width"][0])


def test_attributes_that_are_not_numbers_are_ignored():
    node = Node("conv", attributes={"kernel": "same", "stride": None, "groups": ("x", 2)})

    found = features_of(ParamGraph([node], [], {}), 0)

    assert {name for name, value in found.items() if value} == {"groups"}


def test_features_of_very_wide_layers_stay_near_the_unit_range():
    spec = ParamSpec("w", (65536, 65536), "float32", 0, "weight", "oi", 65536, sections=4)
    graph = ParamGraph([Node("linear", parameters=(("w", "weight"),))], [], {"w": spec})

    assert 0 <= min(features_of(graph, 0).values()) <= max(features_of(graph, 0).values()) < 1.1


def test_an_operator_outside_the_vocabulary_reads_as_other():
    graph = ParamGraph([Node("relu"), Node("not_yet_invented")], [], {})

    assert GraphBatch.from_graphs([graph]).op.tolist() == [list(OPERATORS).index("relu"), 0]


def test_degrees_depth_and_level_of_a_skip_connection():
    found = GraphBatch.from_graphs([convnet()])

    assert found.in_degree.tolist() == [0, 1, 1, 2, 1]
    assert found.out_degree.tolist() == [1, 2, 1, 1, 0]
    assert found.depth.tolist() == [0, 1, 2, 2, 3]
    assert found.level.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(4))
def test_depth_and_level_equal_those_of_networkx(seed):
    graph = random_graph(50, seed)
    reference = graph.to_networkx()
    depth = networkx.multi_source_dijkstra_path_length(reference, {0, 1})
    level = {
        node: i
        for i, nodes in enumerate(networkx.topological_generations(reference))
        for node in nodes
    }

    found = GraphBatch.from_graphs([graph])

    assert found.depth.tolist() == [depth.get(i, 0) for i in range(50)]
    assert found.level.tolist() == [level[i] for i in range(50)]


def test_a_batch_lays_its_graphs_side_by_side():
    graphs = [random_graph(7, 0), convnet(), random_graph(4, 1)]

    found = GraphBatch.from_graphs(graphs)

    assert found.sizes == (7, 5, 4)
    assert found.num_nodes == 16
    assert found.graph_index.tolist() == [0] * 7 + [1] * 5 + [2] * 4
    expected = [
        (u + start, v + start)
        for graph, start in zip(graphs, (0, 7, 12), strict=True)
        for u, v in graph.edges
    ]
    assert list(map(tuple, found.edge_index.T.tolist())) == expected
    for index, graph in enumerate(graphs):
        alone = GraphBatch.from_graphs([graph])
        here = found.graph_index == index
        for name in ("op", "features", "in_degree", "out_degree", "depth", "level"):
            assert torch.equal(getattr(found, name)[here], getattr(alone, name)), name
        assert torch.equal(found.distances[index], alone.distances[0])


def test_distances_of_one_graph_are_computed_once(monkeypatch):
    calls = []
    original = batch.shortest_distances
    monkeypatch.setattr(
        batch, "shortest_distances", lambda graph: calls.append(graph) or original(graph)
    )
    graph = convnet()

    GraphBatch.from_graphs([graph, graph])
    GraphBatch.from_graphs([graph])

    assert len(calls) == 1


def test_batching_changes_neither_the_value_nor_the_json_of_a_graph():
    graph = convnet()

    GraphBatch.from_graphs([graph])

    assert graph == convnet()
    assert graph.to_json() == convnet().to_json()


def test_a_graph_made_from_a_batched_one_is_computed_anew():
    graph = convnet()
    GraphBatch.from_graphs([graph])

    pruned = dataclasses.replace(graph, edges=graph.edges[:-1])

    assert GraphBatch.from_graphs([pruned]).in_degree.tolist() == [0, 1, 1, 2, 0]


def test_all_tensors_move_to_the_device():
    moved = GraphBatch.from_graphs([convnet()], device="meta")

    values = [getattr(moved, field.name) for field in dataclasses.fields(moved)]
    tensors = [v for v in values if isinstance(v, torch.Tensor)] + list(moved.distances)
    assert len(tensors) == 9
    assert {t.device.type for t in tensors} == {"meta"}
    assert moved.sizes == (5,)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="at least one graph"):
        GraphBatch.from_graphs([])
