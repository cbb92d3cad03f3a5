"""Small graphs for tests."""

from __future__ import annotations

from ghn.graphs import Node, ParamGraph, ParamSpec


def chain(*blocks: tuple[str, int], skip: bool = False) -> ParamGraph:
    """A chain of linear layers and ReLUs: one block a pair (scope, width)."""
    nodes, edges, specs = [Node("input")], [], {}
    for scope, width in blocks:
        name = f"{scope}.fc.weight"
        specs[name] = ParamSpec(name, (width, width), "float32", len(nodes), "weight", "oi")
        if skip:
            edges.append((len(nodes) - 1, len(nodes) + 2))
        for op, parameters in (("linear", ((name, "weight"),)), ("relu", ()), ("add", ())):
            edges.append((len(nodes) - 1, len(nodes)))
            nodes.append(Node(op, scope, {}, parameters))
    edges.append((len(nodes) - 1, len(nodes)))
    nodes.append(Node("output"))
    return ParamGraph(nodes, sorted(set(edges)), specs)
