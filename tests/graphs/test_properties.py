"""Random networks, traced: attribution and data flow against autograd's own graph of a real run."""

import itertools

import networkx
import pytest
import torch
from autograd_oracle import _readers, _upwards
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ghn.graphs import ParamGraph, trace

WIDTH = 6
RESULTS = []  # of all steps, those that nobody reads too
BINARY = ("add", "mul", "subtract_into", "concat")
UNARY = ("linear", "norm", "gelu", "relu_", "raw", "transposed", "chunk", "vector", "nested")


class Network(nn.Module):
    """Runs a list of steps on a growing list of tensors; the last ones are the output.

    Layers and raw parameters are chosen by number, so that steps share them.
    """

    def __init__(self, steps, outputs, shape, names):
        super().__init__()
        self.steps, self.outputs, self.shape, self.names = steps, outputs, shape, names
        for kind, _, number, inner in steps:
            name = f"{names}{kind}{number}"
            if hasattr(self, name):
                continue
            if kind == "linear":
                setattr(self, name, nn.Linear(WIDTH, WIDTH))
            elif kind == "norm":
                setattr(self, name, nn.LayerNorm(WIDTH))
            elif kind == "concat":
                setattr(self, name, nn.Linear(2 * WIDTH, WIDTH))
            elif kind == "nested":
                setattr(self, name, Network(inner, 1, "tensor", names))
            elif kind in ("raw", "transposed", "chunk"):
                rows = 2 * WIDTH if kind == "chunk" else WIDTH
                setattr(self, name, nn.Parameter(torch.randn(rows, WIDTH)))
            elif kind == "vector":
                setattr(self, name, nn.Parameter(torch.randn(WIDTH)))
        self.register_parameter(f"{names}unused", nn.Parameter(torch.zeros(3)))

    def forward(self, *inputs):
        tensors = list(inputs)
        for kind, places, number, _ in self.steps:
            read = [tensors[place % len(tensors)] for place in places]
            tensors.append(self.run(kind, read, getattr(self, f"{self.names}{kind}{number}", None)))
            RESULTS.append(tensors[-1])
        results = tensors[-self.outputs :]
        if self.shape == "dict":
            return {f"out{i}": result for i, result in enumerate(results)}
        return results[0] if self.shape == "tensor" else tuple(results)

    def run(self, kind, read, part):
        x = read[0]
        if kind in ("linear", "norm", "nested"):
            return part(x)
        if kind == "concat":
            return part(torch.cat(read, -1))
        if kind == "add":
            return read[0] + read[1]
        if kind == "mul":
            return read[0] * read[1]
        if kind == "subtract_into":
            return x.clone().sub_(read[1])
        if kind == "gelu":
            return F.gelu(x)
        if kind == "relu_":
            return x.clone().relu_()
        if kind == "vector":
            return x * part
        if kind == "chunk":
            return F.linear(x, part.chunk(2)[1])
        return F.linear(x, part.t() if kind == "transposed" else part)


def steps(depth):
    inner = st.nothing() if depth == 0 else steps(depth - 1)
    kinds = [k for k in UNARY if depth or k != "nested"]
    place, number = st.integers(0, 20), st.integers(0, 1)
    one = st.sampled_from(kinds).flatmap(
        lambda kind: st.tuples(
            st.just(kind),
            st.tuples(place),
            number,
            inner if kind == "nested" else st.none(),
        )
    )
    two = st.tuples(st.sampled_from(BINARY), st.tuples(place, place), number, st.none())
    return st.lists(st.one_of(one, one, two), min_size=1, max_size=7)


@st.composite
def programs(draw):
    shape = draw(st.sampled_from(["tensor", "tuple", "dict"]))
    outputs = 1 if shape == "tensor" else draw(st.integers(1, 3))
    return draw(steps(1)), outputs, shape, draw(st.integers(1, 3))


def build(program, names="a"):
    listed, outputs, shape, count = program
    torch.manual_seed(0)
    return Network(listed, outputs, shape, names), tuple(
        torch.randn(2, WIDTH) for _ in range(count)
    )


def autograd_view(model, inputs):
    """Return each parameter's consumers in autograd's graph, and which consumers lead to which."""
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    RESULTS.clear()
    model.eval()(*inputs)
    readers, leaves = _readers(RESULTS)
    seeds = [leaves[id(x)] for x in inputs if id(x) in leaves]
    data = _upwards(seeds, readers, stop=lambda function: False)[0]
    uses = {
        name: set(_upwards(readers[leaves[id(p)]], readers, stop=data.__contains__)[1])
        if id(p) in leaves
        else set()
        for name, p in model.named_parameters()
    }
    above = {
        function: _upwards(readers[function], readers, stop=lambda f: False)[0]
        for function in set().union(*uses.values())
    }
    leads = {
        (p, q)
        for p, q in itertools.product(uses, uses)
        if any(g in above[f] for f in uses[p] for g in uses[q])
    }
    return {name: len(found) for name, found in uses.items()}, leads


CHECK = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@CHECK
@given(programs())
def test_uses_and_data_flow_are_those_of_autograd(program):
    model, inputs = build(program)
    uses, leads = autograd_view(model, inputs)

    graph = trace(model, inputs)

    counts = {name: len(found) for name, found in graph.parameters.items()}
    assert counts | dict.fromkeys(graph.untouched, 0) == uses
    below = graph.to_networkx()
    reached = {node: networkx.descendants(below, node) for node in below}
    found = {
        (p, q)
        for p, q in itertools.product(uses, uses)
        for u in graph.parameters.get(p, ())
        for v in graph.parameters.get(q, ())
        if v.node in reached[u.node]
    }
    assert found == leads


@CHECK
@given(programs())
def test_the_order_is_topological_and_two_traces_are_equal(program):
    model, inputs = build(program)

    graph = trace(model, inputs)

    assert all(u < v for u, v in graph.edges)
    assert graph == trace(model, inputs) == ParamGraph.from_json(graph.to_json())
    assert graph.nodes[-1].op == "output"


@CHECK
@given(programs())
def test_renaming_changes_names_only(program):
    model, inputs = build(program, "a")
    other, _ = build(program, "another_")

    first, second = trace(model, inputs), trace(other, inputs)

    names = dict(zip([n for n, _ in model.named_parameters()],
                     [n for n, _ in other.named_parameters()], strict=True))  # fmt: skip
    assert [n.op for n in first.nodes] == [n.op for n in second.nodes]
    assert first.edges == second.edges
    assert {names[n]: uses for n, uses in first.parameters.items()} == second.parameters
    assert [names[n] for n in first.untouched] == second.untouched
    for name, spec in first.specs.items():
        renamed = second.specs[names[name]]
        assert (spec.shape, spec.axes, spec.role) == (renamed.shape, renamed.axes, renamed.role)


def test_a_shared_module_and_a_shared_parameter_have_a_use_for_each_call():
    twice = [("linear", (0,), 0, None), ("linear", (1,), 0, None), ("raw", (2,), 0, None),
             ("raw", (3,), 0, None)]  # fmt: skip
    model, inputs = build((twice, 1, "tensor", 1))

    graph = trace(model, inputs)

    assert len(graph.parameters["alinear0.weight"]) == len(graph.parameters["araw0"]) == 2


@pytest.mark.parametrize("shape", ["tuple", "dict"])
def test_every_output_is_in_the_graph(shape):
    heads = [("linear", (0,), 0, None), ("linear", (0,), 1, None)]
    model, inputs = build((heads, 2, shape, 1))

    graph = trace(model, inputs)

    assert {u for u, v in graph.edges if v == len(graph.nodes) - 1} == {1, 2}
