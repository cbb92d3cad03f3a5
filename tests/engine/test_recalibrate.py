from __future__ import annotations

import inspect
import math

import pytest
import torch
from engine_helpers import FakeGHN, Small, photograph
from torch import nn

from ghn.engine import predict_params
from ghn.errors import ConfigError, InputError

X = torch.zeros(2, 3, 8, 8)


def batches(count=3):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 8, 8, generator=g) + 1 for _ in range(count)]


def test_recalibration_gives_the_average_statistics_of_the_batches():
    model = Small().eval()
    model.norm.train()
    model.norm.momentum = 0.3

    predict_params(model, X, checkpoint=FakeGHN(), recalibrate=iter(batches()))

    with torch.no_grad():
        outputs = [model.conv(b) for b in batches()]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    var = torch.stack([o.transpose(0, 1).flatten(1).var(1) for o in outputs]).mean(0)
    torch.testing.assert_close(model.norm.running_mean, mean)
    torch.testing.assert_close(model.norm.running_var, var)
    assert model.norm.num_batches_tracked == 3
    assert (model.norm.momentum, model.norm.training, model.training) == (0.3, True, False)


def test_statistics_stay_without_batches():
    model = Small()
    model(torch.randn(4, 3, 8, 8) + 5)
    mean = model.norm.running_mean.clone()

    predict_params(model, X, checkpoint=FakeGHN())

    assert torch.equal(model.norm.running_mean, mean)


def test_a_batch_that_fails_undoes_the_whole_prediction():
    model = Small()
    model(torch.randn(4, 3, 8, 8))
    before = photograph(model)
    bad = [*batches(1), torch.randn(4, 7, 8, 8)]

    with pytest.raises(InputError, match="batch 1"):
        predict_params(model, X, checkpoint=FakeGHN(), recalibrate=bad)

    assert photograph(model) == before


def test_batches_that_give_no_finite_statistics_undo_the_whole_prediction():
    model = Small()
    before = photograph(model)
    wrong = inspect.unwrap(predict_params)  # the tests' own check of types off

    with pytest.raises(InputError, match="not finite"):
        predict_params(model, X, checkpoint=FakeGHN(), recalibrate=[X, X * math.nan])
    with pytest.raises(ConfigError, match="recalibrate= needs batches, got 3"):
        wrong(model, X, checkpoint=FakeGHN(), recalibrate=3)

    assert photograph(model) == before


def test_recalibrating_a_model_without_batch_norm_is_noted():
    report = predict_params(
        nn.Linear(3, 3), torch.zeros(1, 3), checkpoint=FakeGHN(), recalibrate=[torch.zeros(1, 3)]
    )

    assert any("no BatchNorm" in note for note in report.notes)


class WithHelper(nn.Module):
    """A second head, used in training alone."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
        self.helper = nn.BatchNorm2d(6)

    def forward(self, x):
        x = self.body(x)
        return x + self.helper(x) if self.training else x


def test_statistics_that_no_batch_reaches_stay():
    model = WithHelper()
    model.helper.running_mean.fill_(3.0)
    model.helper.num_batches_tracked.fill_(99)

    predict_params(model, X, checkpoint=FakeGHN(), recalibrate=batches())

    assert model.helper.running_mean.tolist() == [3.0] * 6
    assert model.helper.num_batches_tracked == 99
    assert model.body[1].num_batches_tracked == 3
