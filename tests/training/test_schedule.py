from __future__ import annotations

import itertools

import pytest
import torch

from ghn.training.schedule import rise_and_fall


@pytest.mark.parametrize(("steps", "rise"), [(100, 10), (37, 5), (12, 1)])
def test_after_the_rise_it_is_the_cosine_of_torch(steps, rise):
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - rise)

    for step in range(rise, steps + 1):
        expected = optimizer.param_groups[0]["lr"]
        assert rise_and_fall(step, steps, rise) == pytest.approx(expected, abs=1e-9)
        optimizer.step()
        cosine.step()


def test_it_rises_along_a_line_stays_and_falls_late():
    shares = [rise_and_fall(step, 108, rise=8, falling=0.25) for step in range(109)]

    assert shares[:8] == [(i + 1) / 8 for i in range(8)]
    assert shares[8:84] == [1.0] * 76
    assert all(later < sooner for sooner, later in itertools.pairwise(shares[83:]))
    assert shares[95] + shares[96] == pytest.approx(1.0)  # half way down
    assert shares[108] == 0.0
