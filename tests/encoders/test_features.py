"""The shared node input: sinusoids, limits, and older vocabularies."""

from __future__ import annotations

import math

import pytest
import torch

from ghn.encoders.features import MAX_DEGREE, NodeInput, sinusoids
from ghn.graphs import OPERATORS, Node, ParamGraph
from ghn.graphs.batch import GraphBatch

DIM = 16


def test_sinusoids_are_waves_of_the_row_number():
    table = sinusoids(50, 8)

    for row, column in [(0, 0), (1, 0), (7, 1), (49, 3)]:
        angle = row / 10_000 ** (2 * column / 8)
        assert table[row, column] == pytest.approx(math.sin(angle), abs=1e-5)
        assert table[row, column + 4] == pytest.approx(math.cos(angle), abs=1e-5)


def test_an_older_shorter_operator_table_is_extended_by_copies_of_other():
    known = len(OPERATORS) - 3
    state = NodeInput(DIM).state_dict()
    state["operator.weight"] = torch.randn(known, DIM)
    newer = NodeInput(DIM)

    newer.load_state_dict(state)

    table = newer.operator.weight
    assert torch.equal(table[:known], state["operator.weight"])
    assert torch.equal(table[known:], state["operator.weight"][:1].expand(3, -1))
    assert len(state["operator.weight"]) == known  # the caller's state is left alone


def test_an_operator_table_from_the_future_is_refused():
    state = NodeInput(DIM).state_dict()
    state["operator.weight"] = torch.randn(len(OPERATORS) + 1, DIM)

    with pytest.raises(RuntimeError, match=r"operator\.weight"):
        NodeInput(DIM).load_state_dict(state)


def test_degrees_and_depths_beyond_the_tables_count_as_the_last_row():
    def fan(width):
        nodes = [Node("input")] * width + [Node("add")]
        return ParamGraph(nodes, [(i, width) for i in range(width)], {})

    module = NodeInput(DIM)
    torch.nn.init.normal_(module.in_degree.weight)
    smaller, exact, larger = (
        module(GraphBatch.from_graphs([fan(width)]))[-1]
        for width in (MAX_DEGREE - 1, MAX_DEGREE, MAX_DEGREE + 30)
    )

    assert torch.equal(exact, larger)
    assert not torch.equal(smaller, exact)


def test_inputs_of_different_operators_start_at_about_unit_scale():
    torch.manual_seed(0)
    nodes = [Node(op) for op in OPERATORS]

    x = NodeInput(64)(GraphBatch.from_graphs([ParamGraph(nodes, [], {})]))

    assert 0.3 < x.std() < 1.5
