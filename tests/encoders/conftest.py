"""Random graphs of operators with parameters, for all encoder tests."""

from __future__ import annotations

import numpy as np
import pytest

from ghn.graphs import OPERATORS, Node, ParamGraph, ParamSpec


@pytest.fixture
def random_graph():
    def make(size, seed):
        """A connected DAG with skip connections; every third node has a weight."""
        rng = np.random.default_rng(seed)
        edges = set()
        for v in range(1, size):
            edges |= {(int(u), v) for u in rng.integers(max(0, v - 8), v, size=rng.integers(1, 4))}
        nodes, specs = [Node("input")], {}
        for i in range(1, size):
            parameters = ()
            if i % 3 == 0:
                shape = (int(rng.integers(1, 300)), int(rng.integers(1, 300)), 3, 3)
                specs[f"w{i}"] = ParamSpec(f"w{i}", shape, "float32", i, "weight", "oikk")
                parameters = ((f"w{i}", "weight"),)
            op = list(OPERATORS)[int(rng.integers(3, len(OPERATORS)))]
            nodes.append(Node(op, attributes={"stride": i % 2 + 1}, parameters=parameters))
        return ParamGraph(nodes, sorted(edges), specs)

    return make
