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
