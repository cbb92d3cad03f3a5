from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest
from graph_helpers import chain
from PIL import Image

from ghn.errors import ConfigError
from ghn.graphs import Node
from ghn.graphs.blocks import Folded
from ghn.graphs.draw import BOX_HEIGHT, BOX_WIDTH, _places, _route, draw


def test_boxes_never_overlap():
    # A wide and deep graph: 60 layers, each read by three branches.
    nodes = [Node("input")] + [Node("relu", f"m{i}") for i in range(180)]
    edges = [(max(0, (i - 1) // 3 * 3 - 2 + b), i) for i in range(1, 181) for b in range(3)]
    edges = sorted({(u, v) for u, v in edges if u < v})
    folded = Folded(list(range(len(nodes))), edges, {})

    places = list(_places(folded).values())

    for a, b in itertools.combinations(places, 2):
        assert abs(a.x - b.x) >= BOX_WIDTH or abs(a.y - b.y) >= BOX_HEIGHT


def test_arrows_inside_a_column_point_downwards():
    graph = chain(*[(f"a{i}", 8) for i in range(30)], skip=True)
    folded = Folded(list(range(len(graph.nodes))), graph.edges, {})

    places = _places(folded)

    assert max(p.column for p in places.values()) > 0
    assert all(
        places[u].y > places[v].y if places[u].column == places[v].column else True
        for u, v in graph.edges
    )


def test_an_edge_passes_beside_the_boxes_of_other_operators():
    # A shortcut past a layer of three boxes, as around the tanh approximation of GELU.
    nodes = [Node("linear", f"m{i}") for i in range(7)]
    edges = [(0, 1), (1, 2), (1, 3), (1, 4), (3, 5), (5, 6), (1, 5), (0, 6)]
    places = _places(Folded(list(range(len(nodes))), sorted(edges), {}))

    for u, v in edges:
        (way,) = _route(places[u], places[v], places.values()).to_polygons(closed_only=False)
        for other in set(places) - {u, v}:
            for (x, y), (a, b) in itertools.pairwise(way):
                for share in (0.0, 0.25, 0.5, 0.75):
                    dx = abs(x + share * (a - x) - places[other].x)
                    dy = abs(y + share * (b - y) - places[other].y)
                    assert dx > BOX_WIDTH / 2 or dy > BOX_HEIGHT / 2, (u, v, other)


def test_a_column_ends_before_a_repeated_block_and_not_within_it():
    graph = chain(*[(f"a{i}", 8) for i in range(12)])  # 38 layers, of which 34 fit a column
    folded = Folded(list(range(len(graph.nodes))), graph.edges, {})
    block = list(range(30, 36))

    columns = {_places(folded, [block])[node].column for node in block}

    assert columns == {1}
    assert len({_places(folded)[node].column for node in block}) == 2


def test_a_drawing_is_valid_svg_with_all_labels(tmp_path):
    import matplotlib

    graph = chain(("first", 8), ("second", 16))
    path = tmp_path / "graph.svg"

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw(graph, path)

    root = ET.parse(path).getroot()
    assert root.tag.endswith("svg")
    text = path.read_text()
    for label in (
        "linear",
        "relu",
        "input",
        "output",
        "first 8\u00d78",
        "second 16\u00d716",
        "activation",
    ):
        assert re.search(rf">{label}<", text), label


def test_drawing_twice_gives_the_same_file(tmp_path):
    graph = chain(("blocks.0", 8), ("blocks.1", 8), skip=True)

    draw(graph, tmp_path / "a.svg")
    draw(graph, tmp_path / "b.svg")

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_drawing_can_be_a_png(tmp_path):
    draw(chain(("only", 4)), tmp_path / "graph.png")

    with Image.open(tmp_path / "graph.png") as image:
        width, height = image.size
    assert width > 300
    assert height > 300


def test_repeated_blocks_make_the_picture_smaller_when_folded(tmp_path):
    graph = chain(*[(f"blocks.{i}", 8) for i in range(8)])

    draw(graph, tmp_path / "folded.png")
    draw(graph, tmp_path / "whole.png", fold_blocks=False)

    with Image.open(tmp_path / "folded.png") as a, Image.open(tmp_path / "whole.png") as b:
        assert a.size[1] < b.size[1] / 2


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"\.svg, \.png or \.pdf"):
        draw(chain(("only", 4)), tmp_path / "graph.bmp")

    assert list(tmp_path.iterdir()) == []
