import sys

import networkx as nx
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ghn.graphs import Node, ParamGraph, trace
from ghn.graphs.structure import residual_branch_ends, signal_facts, trunk


def graph_of(*nodes, edges):
    """A graph of operators by name; a `*` gives the node a weight."""
    made = [
        Node(op.rstrip("*"), parameters=((f"p{i}", "weight"),) if op.endswith("*") else ())
        for i, op in enumerate(nodes)
    ]
    return ParamGraph(nodes=made, edges=sorted(edges), specs={})


def chain(*nodes):
    return graph_of(*nodes, edges=[(i, i + 1) for i in range(len(nodes) - 1)])


def end_names(model, inputs=None):
    graph = trace(model, inputs)
    ends = residual_branch_ends(graph)
    names = {name for end in ends for name, _ in graph.nodes[end].parameters}
    return names, set(ends.values())


@pytest.mark.parametrize("path", [(), ("batch_norm*",), ("layer_norm*", "matmul"), ("avg_pool",)])
def test_channels_stay_aligned_through_norms_and_sums(path):
    graph = chain("input", "conv*", *path, "linear*", "output")

    assert len(graph.nodes) - 2 in signal_facts(graph).aligned


def test_channels_stay_aligned_through_a_scale_of_their_own():
    graph = chain("input", "conv*", "mul", "linear*", "output")
    graph.nodes[2] = Node("mul", parameters=(("gamma", "scale"),))

    assert 3 in signal_facts(graph).aligned


@pytest.mark.parametrize("path", [("relu",), ("depthwise_conv*",), ("mul", "layer_norm*")])
def test_what_treats_each_channel_on_its_own_breaks_alignment(path):
    graph = chain("input", "conv*", *path, "linear*", "output")

    assert len(graph.nodes) - 2 not in signal_facts(graph).aligned


def test_layers_of_averages_are_told_by_what_was_averaged():
    rectified = chain("input", "conv*", "silu", "mean", "conv*", "relu", "conv*", "output")
    plain = chain("input", "conv*", "silu", "batch_norm*", "mean", "linear*", "output")

    assert signal_facts(rectified).pooled == {4: "rectified", 6: "plain"}
    assert signal_facts(plain).pooled == {5: "plain"}


def test_a_signal_times_a_gate_of_itself_is_rectified_as_by_silu():
    names = ("input", "conv*", "sigmoid", "mul", "mean", "conv*", "output")
    gated = [(0, 1), (1, 2), (1, 3), (2, 3), (3, 4), (4, 5), (5, 6)]
    by_another = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5), (5, 6)]

    assert signal_facts(graph_of(*names, edges=gated)).pooled == {5: "rectified"}
    assert signal_facts(graph_of(*names, edges=by_another)).pooled == {5: "plain"}


def test_norms_of_the_network_are_known():
    graph = chain("input", "conv*", "batch_norm*", "relu", "conv*", "layer_norm*", "output")

    assert signal_facts(graph).renormed == {1}
    assert (signal_facts(graph).layer_norms, signal_facts(graph).batch_norms) == (1, 1)


def test_a_norm_behind_a_concatenation_is_a_norm_of_its_parts():
    graph = graph_of(
        "input", "conv*", "conv*", "concat", "batch_norm*", "output",
        edges=[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5)],
    )  # fmt: skip

    assert signal_facts(graph).renormed == {1, 2, 3}


def test_a_sum_that_only_a_batch_norm_reads_closes_no_residual_branch():
    def ends(*more):
        edges = [(0, 1), (1, 2), (1, 3), (2, 3), (3, 4), (4, 5), *more]
        names = "input", "conv*", "conv*", "add", "batch_norm*", "output"
        return residual_branch_ends(graph_of(*names, edges=edges))

    assert ends() == {}
    assert ends((3, 5)) == {2: 1}


def test_resnet_branches_end_in_the_last_norm_with_projection_shortcuts_counted():
    with torch.device("meta"):
        model = timm.create_model("resnet18")

    names, counts = end_names(model)

    blocks = [f"layer{i}.{j}.bn2" for i in range(1, 5) for j in range(2)]
    assert names == {f"{b}.{p}" for b in blocks for p in ("weight", "bias")}
    assert counts == {8}


def test_prenorm_transformer_branches_end_in_their_output_projections():
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", depth=3)

    names, counts = end_names(model)

    assert {n for n in names if n.endswith("weight")} == {
        f"blocks.{i}.{layer}.weight" for i in range(3) for layer in ("attn.proj", "mlp.fc2")
    }
    assert counts == {6}


def test_layer_scale_ends_a_convnext_branch():
    with torch.device("meta"):
        model = timm.create_model("convnext_atto")

    names, counts = end_names(model)

    assert names == {n for n, _ in model.named_parameters() if n.endswith("gamma")}
    assert counts == {12}


def test_written_out_gelu_is_no_residual_branch():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)

    names, counts = end_names(model)

    assert {n.split(".h.")[1] for n in names if n.endswith("weight")} == {
        f"{i}.{layer}.c_proj.weight" for i in range(2) for layer in ("attn", "mlp")
    }
    assert counts == {4}


def test_squeeze_and_excitation_leaves_the_end_to_the_norm():
    with torch.device("meta"):
        model = timm.create_model("seresnet50")

    names, _ = end_names(model)

    assert names
    assert all(".bn" in n for n in names)


@pytest.mark.parametrize("name", ["densenet121", "vgg11_bn"])
def test_networks_without_sums_have_no_branches(name):
    with torch.device("meta"):
        model = timm.create_model(name)

    assert end_names(model) == (set(), set())


def test_parallel_branches_of_one_shortcut_all_end():
    # x + (attention(x) + mlp(x)), as in GPT-J
    graph = graph_of(
        *("input", "layer_norm*", "linear*", "attention", "linear*"),
        *("linear*", "gelu", "linear*", "add", "add", "output"),
        edges=[
            *((0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7)),
            *((4, 8), (7, 8), (0, 9), (8, 9), (9, 10)),
        ],
    )

    assert residual_branch_ends(graph) == {4: 1, 7: 1}


def test_parallel_convolutions_without_a_shortcut_are_no_residual_branch():
    # norm(x) + conv(x) + conv(x) + conv(x), as in RepVGG and MobileOne
    graph = graph_of(
        *("input", "relu", "batch_norm*", "conv*", "conv*", "conv*", "add", "add", "add", "output"),
        edges=[
            *((0, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 6), (3, 6)),
            *((6, 7), (4, 7), (7, 8), (5, 8), (8, 9)),
        ],
    )

    assert residual_branch_ends(graph) == {}


def test_a_norm_without_gain_at_the_end_cancels_what_precedes_it():
    graph = graph_of(
        *("input", "linear*", "layer_norm", "add", "output"),
        edges=[(0, 1), (1, 2), (0, 3), (2, 3), (3, 4)],
    )

    assert residual_branch_ends(graph) == {}


def test_concatenated_skips_of_a_unet_are_no_residual_branches():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.mid = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.up = nn.Conv2d(8, 2, 3, padding=1)

        def forward(self, x):
            skip = self.down(x).relu()
            return self.up(torch.cat([skip, self.mid(skip).relu()], 1))

    assert end_names(UNet(), torch.empty(1, 3, 8, 8)) == (set(), set())


def chain_of_branches(count):
    nodes, edges = ["input"], []
    for _ in range(count):
        last = len(nodes) - 1
        nodes += ["linear*", "relu", "add"]
        edges += [(last, last + 1), (last + 1, last + 2), (last + 2, last + 3), (last, last + 3)]
    return graph_of(*nodes, edges=edges)


def lines_run(graph):
    """Count the lines of Python that both analyses run."""
    count = 0

    def tracer(frame, event, arg):
        nonlocal count
        count += event == "line"
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        residual_branch_ends(graph)
        signal_facts(graph)
    finally:
        sys.settrace(before)
    return count


def test_work_grows_with_the_number_of_nodes_and_not_its_square():
    graph = chain_of_branches(1000)

    ends = residual_branch_ends(graph)

    assert len(ends) == 1000
    assert set(ends.values()) == {1000}
    assert lines_run(chain_of_branches(200)) < 3 * lines_run(chain_of_branches(100))


def cut_vertices(graph):
    """Nodes without which no input reaches an output."""
    whole = nx.DiGraph(graph.edges)
    whole.add_nodes_from(range(len(graph.nodes)))
    ends = [{i for i, n in enumerate(graph.nodes) if n.op == op} for op in ("input", "output")]
    whole.add_edges_from([("from", i) for i in ends[0]] + [(i, "to") for i in ends[1]])
    found = set()
    for node in range(len(graph.nodes)):
        rest = whole.copy()
        rest.remove_node(node)
        if not nx.has_path(rest, "from", "to"):
            found.add(node)
    return found


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224", "resnet18", "levit_128s"]
)
def test_the_trunk_is_what_nothing_goes_past(name):
    with torch.device("meta"):
        graph = trace(timm.create_model(name))

    assert trunk(graph) == cut_vertices(graph)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25),
    st.sets(st.integers(0, 3), min_size=1),
    st.sets(st.integers(6, 9), min_size=1),
)
def test_the_trunk_of_any_graph_is_its_cut_vertices(pairs, inputs, outputs):
    edges = sorted({(min(p), max(p)) for p in pairs if p[0] != p[1]})
    ops = ["input" if i in inputs else "output" if i in outputs else "add" for i in range(10)]
    edges = [(a, b) for a, b in edges if b not in inputs and a not in outputs]
    graph = graph_of(*ops, edges=edges)
    joined = nx.DiGraph(edges)
    joined.add_nodes_from(range(10))
    connected = any(nx.has_path(joined, a, b) for a in inputs for b in outputs)

    assert trunk(graph) == (cut_vertices(graph) if connected else set())
