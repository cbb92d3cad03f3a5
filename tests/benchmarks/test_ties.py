import sys

import pytest
import torch

from ghn.benchmarks import ties
from ghn.benchmarks.ties import measure_model


@pytest.fixture(autouse=True)
def no_reference(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)


def test_an_outcome_says_how_many_channels_moved_and_that_the_function_stayed():
    outcome = measure_model("timm:test_resnet")

    assert outcome.unchanged
    assert 0.3 < outcome.share < 1.0
    assert measure_model("timm:test_resnet", reference=True) is None


def test_a_wrong_permutation_shows(monkeypatch):
    def wrong(model, inputs, seed):
        weight = next(p for p in model.parameters() if p.ndim == 4)
        weight.data.copy_(weight.data.flip(0))
        return {name: torch.ones(len(p)).bool() for name, p in model.named_parameters()}

    monkeypatch.setattr(ties, "_shuffled", wrong)

    outcome = measure_model("timm:test_resnet")

    assert outcome.change > 1e-3
    assert not outcome.unchanged


def test_what_a_library_raises_is_its_outcome(monkeypatch):
    def broken(model, inputs, seed):
        raise RuntimeError("no")

    monkeypatch.setattr(ties, "_shuffled", broken)

    outcome = measure_model("timm:test_resnet")

    assert outcome.error == "RuntimeError: no"
    assert not outcome.unchanged
