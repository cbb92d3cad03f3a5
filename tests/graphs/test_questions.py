"""Loops that wait for a value end; the oracle is the number of rounds of the model itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ghn.errors import TraceError
from ghn.graphs import questions, trace


@pytest.fixture(autouse=True)
def _few_questions(monkeypatch):
    monkeypatch.setattr(questions, "GUESSED_LIMIT", 20)
    monkeypatch.setattr(questions, "READ_LIMIT", 60)


class Looping(nn.Module):
    def __init__(self, growth: float = 0.5) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.growth = growth
        self.rounds = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        while x.norm() > 1:
            x = x * self.growth
            self.rounds += 1
        return x


class Halting(nn.Module):
    """Adaptive computation time: steps until every row has halted."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(4, 4)
        self.halt = nn.Linear(4, 1)
        self.rounds = 0

    def forward(self, x: Tensor) -> Tensor:
        halted = torch.zeros(x.shape[0], 1, device=x.device)
        while (halted < 1).any():
            x = self.step(x).tanh()
            halted = halted + self.halt(x).sigmoid()
            self.rounds += 1
        return x


@pytest.mark.parametrize(("make", "op"), [(Looping, "mul"), (Halting, "tanh")])
def test_a_loop_that_waits_for_a_value_has_the_rounds_of_a_real_run(make, op):
    torch.manual_seed(0)
    model, x = make(), 9 * torch.ones(2, 4)

    graph = trace(model, x)

    assert model.rounds == 0
    model(x)
    assert model.rounds > 1
    assert sum(node.op == op for node in graph.nodes) == model.rounds
    assert graph.untouched == []
    assert any("recorded on the CPU" in note for note in graph.assumptions)
    assert not any("took it for true" in note for note in graph.assumptions)


def test_a_loop_without_end_is_an_error_that_says_where_it_is():
    with pytest.raises(TraceError, match=r"test_questions\.py .* largest number of rounds"):
        trace(Looping(growth=1.0), 1e4 * torch.ones(2, 4))


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 20)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(20))

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.gate(x) > 0
        for number, expert in enumerate(self.experts):
            if chosen[:, number].any():
                x = x + expert(x)
        return x


def test_layers_that_ask_often_are_counted_one_by_one():
    graph = trace(nn.Sequential(Experts(), Experts()), torch.zeros(1, 4))

    assert graph.untouched == []
    assert not any("recorded on the CPU" in note for note in graph.assumptions)
