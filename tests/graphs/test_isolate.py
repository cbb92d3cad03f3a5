"""Parameters that a model reaches past its modules; the oracle is the model that does not."""

from __future__ import annotations

import sys
from collections import namedtuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghn.graphs import trace

Pair = namedtuple("Pair", "first second")
X = torch.zeros(2, 4)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def held(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.held())


class InList(Plain):
    def __init__(self) -> None:
        super().__init__()
        self._tied = [self.weight]

    def held(self) -> Tensor:
        return self._tied[0]


class Nested(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.table = {"a": [{"w": (self.weight, 1)}]}
        self.table["all"] = self.table

    def held(self) -> Tensor:
        return self.table["a"][0]["w"][0]


class Named(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(0, self.weight)

    def held(self) -> Tensor:
        return self.pair.second


class Closure(Plain):
    def __init__(self) -> None:
        super().__init__()
        weight = self.weight
        self.held = lambda: weight


class ViewInClosure(Plain):
    def __init__(self) -> None:
        super().__init__()
        weight = self.weight
        self.held = lambda: weight.t().t()


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("kind", [InList, Nested, Named, Closure, ViewInClosure])
def test_a_parameter_is_found_wherever_the_model_keeps_it(kind, device, monkeypatch):
    monkeypatch.setattr(sys.modules["ghn.graphs.trace"], "META", torch.device(device))
    model = kind()
    before = dict(vars(model))

    assert trace(model, X) == trace(Plain(), X)
    assert vars(model) == before


def test_a_container_that_two_modules_share_is_one_during_the_trace():
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.first.memory = self.second.memory = [torch.zeros(4)]

        def forward(self, x: Tensor) -> Tensor:
            self.first.memory[0] = self.first(x)
            return self.second(self.second.memory[0])

    graph = trace(Sharing(), X)

    assert [node.op for node in graph.nodes] == ["input", "linear", "linear", "output"]
    assert graph.edges == [(0, 1), (1, 2), (2, 3)]


class MaxNorm(Plain):
    """Limits its weight in place, and has a loop that needs a run with values."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.copy_(torch.renorm(self.weight.data, 2, 0, 0.1))
        x = super().forward(x)
        while x.norm() > 1:
            x = x / 2
        return x


def test_a_run_on_the_cpu_leaves_parameters_as_they_are(monkeypatch):
    monkeypatch.setattr("ghn.graphs.questions.GUESSED_LIMIT", 5)
    model = MaxNorm()
    before = model.weight.detach().clone()

    graph = trace(model, X)

    assert any("recorded on the CPU" in note for note in graph.assumptions)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_weights_that_are_cached_outside_are_made_anew_inside(device, used_before, monkeypatch):
    monkeypatch.setattr(sys.modules["ghn.graphs.trace"], "META", torch.device(device))
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    with nn.utils.parametrize.cached():
        before = layer.weight if used_before else None
        graph = trace(layer, torch.zeros(1, 4))
        after = layer.weight

    assert graph.specs["parametrizations.weight.original"].role == "weight"
    assert after.device.type == "cpu"
    assert before is None or after is before


def test_a_parameter_that_a_module_wraps_anew_is_still_the_same():
    peft = pytest.importorskip("peft")

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    model = Attention()
    x = torch.zeros(1, 5, 8)
    plain = trace(model, x)
    config = peft.LoraConfig(r=2, target_modules=["attention"])

    graph = trace(peft.get_peft_model(model, config), x)

    assert [n.op for n in graph.nodes] == [n.op for n in plain.nodes]
    assert graph.edges == plain.edges
    assert not graph.untouched
    roles = sorted(spec.role for spec in graph.specs.values())
    assert roles == 2 * ["bias"] + 2 * ["lora_a"] + 2 * ["lora_b"] + 2 * ["weight"]
