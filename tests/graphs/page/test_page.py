from __future__ import annotations

import hashlib
import json
import re
from importlib.resources import files

import numpy as np
import pytest
import torch
from graph_helpers import chain
from torch import nn

from ghn.errors import ConfigError
from ghn.graphs import ChannelSet, ChannelTies, Node, ParamGraph, channel_ties, trace
from ghn.graphs.page import Histogram, Provenance, graph_page
from ghn.graphs.ties import TiedAxis


def data_of(page: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]
    )


def test_the_page_carries_every_node_edge_and_parameter():
    graph = chain(("blocks.0", 8), ("blocks.1", 8), ("blocks.2", 16), skip=True)

    data = data_of(graph_page(graph, "a model", command="ghn graph x"))

    operators = [data["operators"][op][0] for op, *_ in data["nodes"]]
    assert operators == [node.op for node in graph.nodes]
    assert [tuple(edge) for edge in data["edges"]] == graph.edges
    assert [p["name"] for p in data["parameters"]] == list(graph.specs)
    assert data["parameters"][2]["shape"] == [16, 16]
    scopes = [[scope, repeats] for scope, _, _, _, repeats in data["blocks"]]
    assert scopes == [["blocks.0", None], ["blocks.1", 0], ["blocks.2", None]]
    assert data["command"] == "ghn graph x"


def test_no_text_of_a_model_can_end_a_script_or_open_a_tag():
    evil = "</script><script>alert(1)</script>"
    graph = ParamGraph([Node("input"), Node("relu", evil)], [(0, 1)], {})

    page = graph_page(graph, f"<b>{evil}</b>", notes=["<!--"])

    assert "alert(1)</script>" not in page
    assert "<b>" not in page
    assert data_of(page)["nodes"][1][1] == evil


def test_the_same_graph_gives_the_same_page():
    graph = chain(("blocks.0", 8), ("blocks.1", 8))

    assert graph_page(graph, "x") == graph_page(graph, "x")


def test_notes_and_assumptions_are_told_once():
    graph = ParamGraph([Node("input")], [], {}, assumptions=("a was taken for b",))

    data = data_of(graph_page(graph, "x", notes=["first", "a was taken for b"]))

    assert data["notes"] == ["first", "a was taken for b"]


def ties_of(name, axis, size):
    tied = TiedAxis(name, axis, np.arange(size)[:, None])
    return ChannelTies((ChannelSet(f"{name}[{axis}]", size, (tied,)),), ())


def test_ties_are_written_with_the_positions_of_a_channel_and_with_buffers():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    image = torch.empty(1, 3, 4, 4)

    page = graph_page(trace(model, image), "x", ties=channel_ties(model, image))

    (found,) = data_of(page)["ties"]
    assert found["size"] == 4
    assert [a for a in found["axes"] if a[0] in ("0.weight", "1.running_var", "3.weight")] == [
        ["0.weight", 0, 1],
        ["3.weight", 1, 4],
        ["1.running_var", 0, 1],
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"provenance": {"no.such": Provenance(decoder="lowrank")}}, "no.such"),
        ({"ties": ties_of("no.such", 0, 8)}, "no.such"),
        ({"ties": ties_of("blocks.0.fc.weight", 2, 8)}, "8 channels"),
        ({"ties": ties_of("blocks.0.fc.weight", 0, 9)}, "9 channels"),
    ],
)
def test_facts_about_another_graph_are_refused(given, words):
    with pytest.raises(ConfigError, match=words):
        graph_page(chain(("blocks.0", 8)), "x", **given)


def test_a_histogram_is_written_with_heights_of_one_byte():
    one = Histogram(-1.0, 1.0, 0.123456789, 0.5, (0, 5, 10))

    assert one.to_json() == [-1.0, 1.0, 0.1235, 0.5, [0, 128, 255]]
    assert Provenance(reason="kept").to_json() == {"reason": "kept"}


def test_libraries_inside_the_page_are_as_published_and_bring_their_licences():
    vendor = files("ghn.graphs.page") / "vendor"
    notes = (vendor / "README.md").read_text()

    assert hashlib.sha256((vendor / "dagre.min.js").read_bytes()).hexdigest() in notes
    assert "Permission is hereby granted" in (vendor / "dagre.LICENSE").read_text()
    assert "graphlib" in (vendor / "README.md").read_text()
