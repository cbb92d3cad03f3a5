"""Any torch-geometric convolution as an encoder, and clear errors for those that cannot be one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ghn.encoders.pyg import PyGConfig, PyGEncoder
from ghn.errors import ConfigError, UnknownNameError
from ghn.graphs.batch import GraphBatch


@pytest.mark.parametrize(
    ("conv", "conv_kwargs"),
    [
        ("GATv2Conv", {"heads": 2, "concat": False}),
        ("SAGEConv", {"aggr": "max"}),
        ("TransformerConv", {}),
        ("GCNConv", {}),
        ("GraphConv", {"aggr": "mean"}),
    ],
)
def test_a_layer_carries_news_to_both_sides_of_an_edge_and_no_farther(
    random_graph, conv, conv_kwargs
):
    torch.manual_seed(0)
    encoder = PyGEncoder(PyGConfig(dim=16, layers=1, conv=conv, conv_kwargs=conv_kwargs))
    graph = random_graph(30, 0)
    batch = GraphBatch.from_graphs([graph])
    source = 12
    neighbours = {v for e in graph.edges if source in e for v in e}
    changed = batch.op.clone()
    changed[source] = 1

    before = encoder(batch)
    after = encoder(dataclasses.replace(batch, op=changed))

    differs = (before - after).abs().amax(dim=1) > 1e-5
    assert differs[sorted(neighbours)].float().mean() > 0.6  # a maximum may miss some
    assert set(differs.nonzero().flatten().tolist()) <= neighbours
    for side in (
        {u for u, v in graph.edges if v == source},
        {v for u, v in graph.edges if u == source},
    ):
        assert differs[sorted(side)].any()


def test_an_unknown_convolution_is_answered_with_near_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'GATv2Conv'"):
        PyGEncoder(PyGConfig(conv="GATv3Conv"))


@pytest.mark.parametrize(
    ("conv", "conv_kwargs", "message"),
    [
        ("GINConv", {}, "in_channels, out_channels"),
        ("GATv2Conv", {"headz": 2}, "headz"),
        ("GATv2Conv", {"heads": 2}, "concat=False"),
        ("NNConv", {}, "NNConv cannot be an encoder"),
    ],
)
def test_a_convolution_that_does_not_fit_is_refused_when_built(conv, conv_kwargs, message):
    with pytest.raises(ConfigError, match=message):
        PyGEncoder(PyGConfig(dim=16, conv=conv, conv_kwargs=conv_kwargs))


def test_cached_edges_are_refused():
    with pytest.raises(ConfigError, match="cached"):
        PyGConfig(conv="GCNConv", conv_kwargs={"cached": True})


def test_building_an_encoder_draws_the_same_weights_for_the_same_seed():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(PyGEncoder(PyGConfig(dim=16, conv_kwargs={"dropout": 0.5})).state_dict())

    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert PyGEncoder(PyGConfig(dim=16)).training
