import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghn.errors import TraceError
from ghn.graphs import trace


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.skip = nn.Conv2d(3, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = F.relu(self.norm(self.conv(x))) + self.skip(x)
        return self.head(y.mean((2, 3)))


def test_the_graph_of_a_residual_block_is_the_one_written_down():
    graph = trace(Residual(), torch.randn(2, 3, 8, 8))

    assert [n.op for n in graph.nodes] == [
        *("input", "conv", "batch_norm", "relu", "conv", "add", "mean", "linear", "output")
    ]
    assert graph.edges == [
        (0, 1), (0, 4), (1, 2), (2, 3), (3, 5), (4, 5), (5, 6), (6, 7), (7, 8),
    ]  # fmt: skip
    assert graph.parameters["norm.weight"] == [(2, "gain")]
    assert [n.scope for n in graph.nodes[1:4]] == ["conv", "norm", ""]
    assert graph.nodes[1].attributes["kernel"] == (3, 3)


def test_stem_and_head_are_the_layers_at_the_ends():
    graph = trace(Residual(), torch.randn(2, 3, 8, 8))

    assert {n for n, s in graph.specs.items() if s.stem} == {
        *("conv.weight", "skip.weight", "skip.bias")
    }
    assert {n for n, s in graph.specs.items() if s.head} == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("layer", "shape", "axes", "fan_in"),
    [
        (nn.Conv2d(6, 8, 3, groups=2), (1, 6, 9, 9), "oikk", 27),
        (nn.Conv1d(6, 8, 5), (1, 6, 20), "oik", 30),
        (nn.ConvTranspose2d(6, 8, 4, stride=2), (1, 6, 9, 9), "iokk", 24),
        (nn.Linear(6, 8), (3, 6), "oi", 6),
        (nn.Bilinear(4, 4, 8), None, "oii", 16),
        (nn.Conv2d(8, 8, 3, groups=8), (1, 8, 9, 9), "oikk", 9),
        (nn.ConvTranspose2d(8, 8, 3, groups=8), (1, 8, 5, 5), "iokk", 9),
        (nn.ConvTranspose2d(16, 32, 3, groups=2), (1, 16, 5, 5), "iokk", 72),
        (nn.ConvTranspose1d(8, 4, 4, stride=2, groups=2), (1, 8, 5), "iok", 8),
    ],
)
def test_axes_and_fan_in_come_from_the_operator(layer, shape, axes, fan_in):
    inputs = (torch.randn(2, 4), torch.randn(2, 4)) if shape is None else torch.randn(shape)

    spec = trace(layer, inputs).specs["weight"]

    assert (spec.axes, spec.fan_in) == (axes, fan_in)


def test_a_weight_stored_as_in_out_is_recognised_by_the_product_it_enters():
    from transformers.pytorch_utils import Conv1D

    spec = trace(Conv1D(12, 5), torch.randn(2, 5)).specs["weight"]

    assert (spec.shape, spec.axes, spec.fan_in) == ((5, 12), "io", 5)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 6, 10))
        self.flat = nn.Parameter(torch.randn(10 * 3))

    def forward(self, x):
        y = torch.bmm(x.expand(4, -1, -1), self.w)
        return y @ self.flat.view(3, 10).t()


def test_letters_are_carried_through_views_by_strides():
    graph = trace(Experts(), torch.randn(2, 6))

    assert (graph.specs["w"].axes, graph.specs["w"].fan_in) == ("eio", 6)
    assert graph.specs["flat"].role == "weight"


class Standardised(nn.Module):
    """Weight standardisation, weight normalisation, a scaled weight and spectral normalisation."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.gain = nn.Parameter(torch.ones(8, 1, 1, 1))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 1))

    def forward(self, x):
        w = F.batch_norm(self.weight.reshape(1, 8, -1), None, None, self.gain.view(-1), None, True)
        return self.spectral(self.normed(F.conv2d(x, w.reshape(self.weight.shape))))


def test_reparametrised_weights_hang_on_the_layer_that_uses_them():
    graph = trace(Standardised(), torch.randn(1, 3, 8, 8))
    convs = [i for i, n in enumerate(graph.nodes) if n.op == "conv"]

    assert [n.op for n in graph.nodes] == ["input", "conv", "conv", "conv", "output"]
    assert graph.parameters["weight"] == [(convs[0], "weight")]
    assert graph.parameters["gain"] == [(convs[0], "scale")]
    assert graph.parameters["normed.parametrizations.weight.original0"] == [(convs[1], "magnitude")]
    assert graph.parameters["normed.parametrizations.weight.original1"] == [(convs[1], "direction")]
    assert graph.parameters["spectral.parametrizations.weight.original"] == [(convs[2], "weight")]
    assert graph.specs["weight"].axes == "oikk"


class Tokens(nn.Module):
    """Class token, positions, a learned query that is normalised, a small net over coordinates."""

    def __init__(self):
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos = nn.Parameter(torch.zeros(1, 5, 8))
        self.query = nn.Parameter(torch.zeros(1, 3, 8))
        self.norm = nn.LayerNorm(8)
        self.register_buffer("grid", torch.linspace(0, 1, 5)[:, None])
        self.coordinates = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 8))
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x):
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        x = x + self.coordinates(self.grid)
        query = self.norm(self.query).expand(x.shape[0], -1, -1)
        return F.scaled_dot_product_attention(query, x, x * self.scale)


def test_tokens_positions_and_networks_without_input_keep_their_places():
    graph = trace(Tokens(), torch.randn(2, 4, 8))
    ops = {name: [(graph.nodes[u.node].op, u.role) for u in uses]
           for name, uses in graph.parameters.items()}  # fmt: skip

    assert ops["cls"] == [("concat", "token")]
    assert ops["pos"] == [("add", "position")]
    assert ops["query"] == [("layer_norm", "token")]
    assert ops["norm.weight"] == [("layer_norm", "gain")]
    assert ops["coordinates.0.weight"] == [("linear", "weight")]
    assert ops["scale"] == [("mul", "scale")]
    assert graph.specs["cls"].axes == "11o"
    assert graph.specs["pos"].axes == "1to"


def test_a_parameter_used_twice_has_two_uses_and_a_tied_one_an_alias():
    embedding = nn.Embedding(11, 6)
    head = nn.Linear(6, 11, bias=False)
    head.weight = embedding.weight
    shared = nn.Linear(6, 6)
    model = nn.Sequential(embedding, shared, nn.ReLU(), shared, head)

    graph = trace(model, torch.zeros(1, 4, dtype=torch.long))

    assert [role for _, role in graph.parameters["0.weight"]] == ["table", "weight"]
    assert len(graph.parameters["1.weight"]) == 2
    assert graph.aliases == {"3.weight": "1.weight", "3.bias": "1.bias", "4.weight": "0.weight"}


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        out = torch.zeros(x.shape[0], 8)
        out[:, :4] = self.first(x)
        out[:, 4:].add_(self.second(x)).relu_()
        return out * 2


def test_in_place_writes_into_views_carry_the_data_flow():
    graph = trace(InPlace(), torch.randn(3, 4)).to_networkx()
    last = next(i for i, d in graph.nodes(data=True) if d["op"] == "mul")
    linears = [i for i, d in graph.nodes(data=True) if d["op"] == "linear"]

    import networkx

    assert all(networkx.has_path(graph, node, last) for node in linears)
    assert not networkx.has_path(graph, linears[0], linears[1])


class Written(nn.Module):
    """A class token that is written into a signal, which a residual block then reads twice."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(8, 8)
        self.cls = nn.Parameter(torch.zeros(8))
        self.norm = nn.LayerNorm(8)
        self.branch = nn.Linear(8, 8)

    def forward(self, x):
        x = self.inside(x)
        x[:, 0] = self.cls
        return x + self.branch(self.norm(x))


def test_a_token_that_is_written_into_a_signal_is_used_by_the_write_alone():
    graph = trace(Written(), torch.zeros(2, 5, 8))
    [(write, role)] = graph.parameters["cls"]
    ops = [node.op for node in graph.nodes]

    assert (ops[write], role) == ("scatter", "token")
    assert (ops.index("linear"), write) in graph.edges
    assert {ops[end] for start, end in graph.edges if start == write} == {"layer_norm", "add"}


def test_fused_projections_know_their_sections():
    packed = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    gated = nn.Sequential(nn.Linear(6, 20), nn.GLU(), nn.Linear(10, 3))

    attention = trace(packed, torch.randn(1, 5, 16))
    unit = trace(gated, torch.randn(2, 6))
    recurrent = trace(nn.LSTM(4, 8), torch.randn(5, 1, 4))

    assert attention.specs["self_attn.in_proj_weight"].sections == 3
    assert "attention" in [n.op for n in attention.nodes] or "softmax" in [
        n.op for n in attention.nodes
    ]
    assert unit.specs["0.weight"].sections == 1  # F.glu reads the whole output
    assert recurrent.specs["weight_ih_l0"].sections == 4
    assert recurrent.specs["weight_hh_l0"].role == "recurrent_weight"


def test_hand_written_rms_norms_are_one_operator():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    with torch.device("meta"):
        graph = trace(LlamaForCausalLM(config))

    ops = [n.op for n in graph.nodes]
    assert ops.count("rms_norm") == 3
    assert ops.count("mean") == 0
    assert graph.specs["model.norm.weight"].role == "gain"


def test_a_norm_by_the_variance_without_its_mean_is_an_rms_norm():
    class SimpleNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x):
            scale = (x.var(dim=1, keepdim=True) + 1e-6).rsqrt()
            return x * scale * self.weight.view(1, -1, 1, 1)

    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 1), SimpleNorm()), torch.zeros(2, 3, 4, 4))

    assert [n.op for n in graph.nodes] == ["input", "conv", "rms_norm", "output"]
    assert graph.specs["1.weight"].role == "gain"


class Marked(nn.Module):
    """Everything a forward pass can leave behind."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.calls = 0
        self.cache = {}
        self.history = []
        self.plain = torch.ones(4)

    def forward(self, x):
        self.calls += 1
        self.cache["x"] = x
        self.history.append(x)
        self.new_attribute = x
        return self.drop(self.norm(self.layer(x * self.plain))) + torch.rand(4)


def test_tracing_leaves_no_mark():
    model = Marked().train()
    model.norm.eval()
    weights = dict(model.named_parameters())
    before = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    plain = model.plain
    state = torch.get_rng_state()

    trace(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))

    assert torch.equal(torch.get_rng_state(), state)
    assert all(p is weights[n] for n, p in model.named_parameters())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert (model.calls, model.cache, model.history) == (0, {}, [])
    assert model.plain is plain
    assert not hasattr(model, "new_attribute")
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_failed_trace_leaves_no_mark_either():
    model = Marked()
    with pytest.raises(TraceError, match="Marked failed on example inputs"):
        trace(model, torch.randn(3, 5))
    assert model.calls == 0
    assert model.layer.weight.device.type == "cpu"


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.yes = nn.Linear(4, 4)
        self.no = nn.Linear(4, 4)

    def forward(self, x):
        return self.yes(x) if x.sum() > 0 else self.no(x)


def test_a_branch_on_a_value_is_taken_for_true_and_said_so():
    graph = trace(Branching(), torch.randn(2, 4))

    assert graph.untouched == ["no.weight", "no.bias"]
    assert "reads a value" in graph.assumptions[0]


def test_a_parameter_read_as_a_number_is_noted():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return self.layer(x) * self.scale.item()

    graph = trace(Scaled(), torch.randn(2, 4))

    assert graph.untouched == ["scale"]
    assert graph.reasons == {"scale": "read as a number"}
    assert "'scale' as a number" in graph.assumptions[0]


def test_the_data_of_an_activation_carry_its_flow():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.second(self.first(x).data)

    assert trace(Detached(), torch.randn(2, 4)).edges == [(0, 1), (1, 2), (2, 3)]


def test_an_ensemble_under_vmap_is_the_batched_product_that_it_is():
    class Ensemble(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 5, 4))

        def forward(self, x):
            return torch.vmap(lambda weight: F.linear(x, weight))(self.weight).mean(0)

    class Batched(Ensemble):
        def forward(self, x):
            return torch.matmul(x, self.weight.transpose(1, 2)).mean(0)

    mapped, batched = (trace(m, torch.randn(2, 4)) for m in (Ensemble(), Batched()))

    assert [n.op for n in mapped.nodes] == [n.op for n in batched.nodes]
    assert mapped.edges == batched.edges
    assert mapped.specs == batched.specs


def test_members_of_an_ensemble_have_weights_and_biases():
    class Ensemble(nn.Module):
        def __init__(self):
            super().__init__()
            self.members = nn.ModuleList(nn.Linear(4, 5) for _ in range(3))

        def forward(self, x):
            parameters, _ = torch.func.stack_module_state(self.members)

            def run(values):
                return torch.func.functional_call(self.members[0], values, (x,))

            return torch.vmap(run)(parameters).mean(0)

    graph = trace(Ensemble(), torch.zeros(2, 4))

    found = {(name.split(".")[-1], s.role, s.axes) for name, s in graph.specs.items()}
    assert found == {("weight", "weight", "oi"), ("bias", "bias", "o")}
    assert len(graph.specs) == 6


def test_parameters_under_vmap_of_a_jacobian_are_touched():
    class Jacobian(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))

        def forward(self, x):
            return torch.func.vmap(torch.func.jacrev(self.layer))(x)

    assert set(trace(Jacobian(), torch.randn(2, 4)).specs) >= {"layer.0.weight", "layer.2.weight"}


def test_what_cannot_be_read_back_is_an_error_in_words():
    class Leaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            kept = []
            torch.vmap(lambda row: kept.append(self.layer(row)) or row)(x)
            return kept

    with pytest.raises(TraceError, match="Leaking was run, but"):
        trace(Leaking(), torch.randn(2, 4))


def test_chance_in_the_models_code_is_the_same_in_every_trace():
    class Chance(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(16))

        def forward(self, x):
            for layer in self.layers:
                chance = np.random.rand()  # noqa: NPY002
                x = layer(x) if random.random() < chance else x
            return x

    model, x = Chance(), torch.randn(2, 4)

    first = trace(model, x)

    random.seed(5)
    np.random.seed(6)  # noqa: NPY002
    assert trace(model, x) == first
    assert 0 < len(first.untouched) < 32


class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.expert = nn.Linear(4, 4)

    def forward(self, x):
        chosen = (x.sum(-1) > -1e9).nonzero().squeeze(-1)
        return torch.zeros_like(x).index_add(0, chosen, self.expert(x[chosen]))


def test_routing_by_values_sends_everything_everywhere_and_says_so():
    graph = trace(Routed(), torch.randn(3, 4))

    assert set(graph.specs) == {"expert.weight", "expert.bias"}
    assert "reads a value" in graph.assumptions[0]
