"""Models that are refused, and inputs, outputs and layers that few models have."""

import collections
import types

import pytest
import torch
from torch import nn

from ghn.errors import InputError, UnsupportedModelError
from ghn.graphs import trace


def test_bad_models_and_inputs_are_refused_in_words():
    with pytest.raises(UnsupportedModelError, match="no parameters"):
        trace(nn.ReLU(), torch.randn(2))
    with pytest.raises(UnsupportedModelError, match="run one batch"):
        trace(nn.LazyLinear(3), torch.randn(2, 2))
    with pytest.raises(UnsupportedModelError, match=r"0.running_mean.* run one batch"):
        trace(nn.Sequential(nn.LazyBatchNorm1d(affine=False), nn.Linear(2, 2)), torch.randn(2, 2))
    with pytest.raises(InputError, match="example_inputs must be"):
        trace(nn.Linear(2, 2), "text")

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(3))

        def forward(self, a, b, c, d):
            return a * self.w

    with pytest.raises(InputError, match="pass example_inputs="):
        trace(Odd())


def test_inputs_are_inferred_for_hand_written_models():
    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    assert len(trace(flat).specs) == 4
    assert len(trace(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))).specs) == 3
    assert len(trace(nn.GRU(5, 6)).specs) == 4


class Packed(nn.Module):
    """Two heads, put together by a function."""

    def __init__(self, pack):
        super().__init__()
        self.a, self.b, self.pack = nn.Linear(4, 3), nn.Linear(4, 3), pack

    def forward(self, x):
        return self.pack(self.a(x), self.b(x).exp())


@pytest.mark.parametrize(
    "pack",
    [
        lambda a, b: torch.distributions.Normal(a, b),
        lambda a, b: torch.distributions.Independent(torch.distributions.Normal(a, b), 1),
        lambda a, b: torch.distributions.TransformedDistribution(
            torch.distributions.Normal(0.0, 1.0), [torch.distributions.AffineTransform(a, b)]
        ),
        lambda a, b: {"policy": torch.distributions.Gamma(a.exp(), b), "value": [a]},
        lambda a, b: collections.UserDict(a=a, b=b),
        lambda a, b: collections.deque((a, b)),
        lambda a, b: {a, b},
        lambda a, b: types.SimpleNamespace(a=a, b=b),
    ],
)
def test_outputs_are_found_in_whatever_a_model_returns(pack):
    graph = trace(Packed(pack), torch.zeros(1, 4))

    end = len(graph.nodes) - 1
    last = {u for u, v in graph.edges if v == end}
    before = {name for u in last for name, _ in graph.nodes[u].parameters}
    assert {graph.nodes[u].op for u in last} >= {"exp"}
    assert "a.weight" in before or "a.weight" in {
        name for u, v in graph.edges if v in last for name, _ in graph.nodes[u].parameters
    }


def test_a_layer_without_outputs_is_traced_too():
    graph = trace(nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3)), torch.zeros(1, 4))

    assert [n.op for n in graph.nodes] == ["input", "linear", "linear", "output"]
    assert graph.specs["0.weight"].shape == (0, 4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("wrap", [nn.Sequential, lambda model: model, nn.DataParallel])
def test_scripted_modules_are_refused_and_keep_their_values(wrap):
    scripted = torch.jit.script(nn.Linear(4, 4))
    before = scripted.weight.clone()

    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        trace(wrap(scripted), torch.zeros(1, 4))

    assert torch.equal(scripted.weight, before)


class OnGraphs(nn.Module):
    """Two graph convolutions; the neighbours are an input or a buffer, sparse or not."""

    def __init__(self, adjacency=None):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("adjacency", adjacency)

    def forward(self, x, adjacency=None):
        adjacency = self.adjacency if adjacency is None else adjacency
        return adjacency @ self.second((adjacency @ self.first(x)).relu())


@pytest.mark.filterwarnings("ignore:.*Sparse CSR.*:UserWarning")
@pytest.mark.parametrize("as_buffer", [False, True])
@pytest.mark.parametrize("kind", ["to_sparse", "to_sparse_csr"])
def test_sparse_tensors_are_data_like_others(kind, as_buffer):
    dense = (torch.rand(5, 5) > 0.5).float()
    sparse, x = getattr(dense, kind)(), torch.zeros(5, 4)

    if as_buffer:
        graph, plain = trace(OnGraphs(sparse), x), trace(OnGraphs(dense), x)
    else:
        graph, plain = trace(OnGraphs(), (x, sparse)), trace(OnGraphs(), (x, dense))

    assert graph.edges == plain.edges
    assert [(n.op, n.parameters) for n in graph.nodes] == [
        (n.op, n.parameters) for n in plain.nodes
    ]


def test_a_table_with_rows_of_limited_length_is_a_table():
    plain = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9))
    limited = nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Linear(4, 9))
    ids = torch.zeros(1, 3, dtype=torch.long)

    assert trace(limited, ids) == trace(plain, ids)


def test_operators_without_a_rule_for_meta_are_recorded_on_the_cpu():
    @torch.library.custom_op("ghn_tests::product", mutates_args=())
    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x @ w

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 3))

        def forward(self, x):
            return product(x, self.w)

    graph = trace(Custom(), torch.zeros(2, 4))

    assert [n.op for n in graph.nodes] == ["input", "other", "output"]
    assert graph.parameters["w"] == [(1, "other")]
