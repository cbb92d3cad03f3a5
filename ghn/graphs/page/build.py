"""A graph becomes a page: its data as JSON, with the scripts that lay it out and draw it.

What the page shows first is the folded graph of `ghn.graphs.blocks`; all nodes are in its data.
The layout is dagre's (`vendor/README.md`), computed in the browser, one block at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ghn.errors import ConfigError
from ghn.graphs.blocks import find_blocks
from ghn.graphs.draw import KIND_OF, KINDS
from ghn.graphs.graph import Node, ParamGraph, ParamSpec
from ghn.graphs.ops import OPERATORS, ROLES
from ghn.graphs.page.facts import Provenance
from ghn.graphs.ties import ChannelTies
from ghn.pages.page import escape, make_page, read_asset

__all__ = ["graph_page"]

PACKAGE = "ghn.graphs.page"
SCRIPTS = (
    "vendor/dagre.min.js",
    "assets/model.js",
    "assets/layout.js",
    "assets/draw.js",
    "assets/view.js",
    "assets/details.js",
    "assets/histogram.js",
    "assets/table.js",
    "assets/main.js",
)
KIND_NAMES = list(KINDS)


def graph_page(
    graph: ParamGraph,
    title: str,
    *,
    command: str = "",
    notes: Iterable[str] = (),
    provenance: Mapping[str, Provenance] | None = None,
    ties: ChannelTies | None = None,
    unfolded: bool = False,
) -> str:
    """Return a self-contained HTML page that shows a graph.

    Args:
        graph: What `ghn.trace` returned.
        title: Name of the model.
        command: Command line that makes the page again; shown if given.
        notes: Sentences about the model or its prediction, beside the graph's own assumptions.
        provenance: After a prediction: where each parameter's values come from, by name.
        ties: What `ghn.graphs.channel_ties` found in the model: to hover over an axis of a
            parameter shows all axes of the same channels.
        unfolded: Whether the page begins with every copy of repeated blocks; they fold there too.

    Raises:
        ConfigError: If `provenance` or `ties` speak of what the graph has not.

    Example:
        >>> page = graph_page(trace(model), "my model")     # doctest: +SKIP
        >>> pathlib.Path("graph.html").write_text(page)     # doctest: +SKIP
    """
    _check_provenance(graph, provenance or {})
    data = {
        "title": title,
        "command": command,
        "notes": list(dict.fromkeys([*notes, *graph.assumptions])),
        **_graph_data(graph),
        "provenance": {n: p.to_json() for n, p in (provenance or {}).items()} or None,
        "ties": _ties_data(graph, ties) if ties else [],
        "unfolded": unfolded,
    }
    return make_page(
        f"{title}: graph",
        read_asset(PACKAGE, "assets/body.html").replace("TITLE", escape(title)),
        styles=[read_asset(PACKAGE, "assets/page.css")],
        scripts=[read_asset(PACKAGE, name) for name in SCRIPTS],
        data=data,
    )


def _check_provenance(graph: ParamGraph, provenance: Mapping[str, Provenance]) -> None:
    known = set(graph.specs) | set(graph.untouched)
    if unknown := [name for name in provenance if name not in known]:
        raise ConfigError(
            f"provenance names parameters that the graph has not: {', '.join(unknown[:3])}; use "
            "the graph that the prediction was made with"
        )


def _ties_data(graph: ParamGraph, ties: ChannelTies) -> list[dict[str, Any]]:
    """Return each set as its name, its number of channels and its axes.

    An axis is [name of the tensor, axis, positions of one channel]. Buffers are among the tensors.
    """
    for channels in ties.sets:
        known = [a for a in channels.axes if a.name in graph.specs]
        sizes = [graph.specs[a.name].shape[a.axis : a.axis + 1] for a in known]
        if not known or any(s <= (a.index.max(),) for s, a in zip(sizes, known, strict=True)):
            raise ConfigError(
                f"ties speak of {channels}, which the graph has not; use the ties of the model "
                "that the graph was traced from"
            )
    return [
        {
            "name": channels.name,
            "size": channels.size,
            "axes": [[a.name, a.axis, a.index.shape[1]] for a in channels.axes],
        }
        for channels in ties.sets
    ]


def _graph_data(graph: ParamGraph) -> dict[str, Any]:
    """Return the graph as the page's scripts read it: numbers instead of names where they repeat.

    A node is [operator, scope, attributes, [[parameter, role], ...]]; operators, parameters and
    roles are positions in the lists beside it. A block is [scope, first node, last node, parent,
    repeats].
    """
    operators = list(dict.fromkeys(node.op for node in graph.nodes))
    parameters = {name: index for index, name in enumerate(graph.specs)}
    return {
        "kinds": KIND_NAMES,
        "operators": [
            [op, KIND_NAMES.index(KIND_OF.get(op, "other")), OPERATORS.get(op, "")]
            for op in operators
        ],
        "roles": ROLES,
        "nodes": [_node_data(node, operators, parameters) for node in graph.nodes],
        "edges": graph.edges,
        "parameters": [_spec_data(spec) for spec in graph.specs.values()],
        "blocks": [[b.scope, b.first, b.last, b.parent, b.repeats] for b in find_blocks(graph)],
        "untouched": [[name, graph.reasons.get(name, "")] for name in graph.untouched],
        "aliases": graph.aliases,
    }


def _node_data(node: Node, operators: list[str], parameters: Mapping[str, int]) -> list[Any]:
    uses = [[parameters[name], role] for name, role in node.parameters]
    return [operators.index(node.op), node.scope, dict(node.attributes), uses]


def _spec_data(spec: ParamSpec) -> dict[str, Any]:
    value = {
        "name": spec.name,
        "shape": spec.shape,
        "dtype": spec.dtype,
        "axes": spec.axes,
        "fan_in": spec.fan_in,
        "groups": spec.groups if spec.groups > 1 else 0,
        "sections": spec.sections if spec.sections > 1 else 0,
        "place": "reads the input" if spec.stem else "makes the output" if spec.head else "",
    }
    return {key: item for key, item in value.items() if item or key in ("shape", "axes")}
