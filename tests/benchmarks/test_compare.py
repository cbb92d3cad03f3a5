from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from ghn.benchmarks import compare
from ghn.benchmarks.compare import (
    Data,
    Run,
    Schedule,
    _set_rate,
    mean_and_spread,
    reach,
    score,
    train,
)


class TwoColours:
    """Images that are red or blue, with noise; the label is the colour."""

    name, hash, metric, settings = "colours", "0", "accuracy", {"classes": 2}

    def batch(self, count, draws):
        y = torch.randint(2, (count,), generator=draws)
        x = 0.5 * torch.randn(count, 3, 8, 8, generator=draws)
        x[:, 0] += y.view(-1, 1, 1)
        x[:, 2] += 1 - y.view(-1, 1, 1)
        return x, y

    def score(self, run, count):
        x, y = self.batch(count, torch.Generator().manual_seed(0))
        return float((run(x).argmax(1) == y).float().mean())


def two_colours() -> Data:
    return Data(TwoColours(), TwoColours(), 100)


def small_net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
        )


def test_the_rate_warms_up_to_its_peak_and_ends_near_zero():
    schedule = Schedule(steps=100, batch=4, rate=0.1)

    rates = [schedule.rate_at(step) for step in range(100)]

    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.1)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[55] == pytest.approx(0.05)
    assert 0 <= rates[-1] < 1e-4


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_scores_are_taken_before_the_first_and_after_the_last_step(steps):
    tests = Schedule(steps=steps, batch=4, rate=0.1).test_steps()

    assert tests[0] == 0
    assert tests[-1] == steps
    assert tests == sorted(set(tests))


def test_training_learns_and_records_every_loss():
    run = train(small_net(), two_colours(), Schedule(steps=30, batch=16, rate=1e-2), seed=0)

    assert len(run.losses) == 30
    assert run.final_loss < 0.5 * run.losses[0]
    assert run.scores[0][0] == 0
    assert run.scores[-1] == (30, pytest.approx(1.0, abs=0.05))


def test_mixed_precision_is_for_the_model_and_losses_are_of_float32(monkeypatch):
    inner, outer = [], []
    model = small_net()
    model[0].register_forward_hook(lambda module, args, out: inner.append(out.dtype))
    real = compare.cross_entropy
    monkeypatch.setattr(compare, "cross_entropy", lambda x, y: outer.append(x.dtype) or real(x, y))
    schedule = Schedule(steps=3, batch=8, rate=1e-2, tests=2, mixed_precision="bf16")

    train(model, two_colours(), schedule, seed=0)

    statistics = 2 * compare.RECALIBRATION  # measured in float32
    assert inner.count(torch.bfloat16) == 3 + 2
    assert inner.count(torch.float32) == statistics == len(inner) - 5
    assert set(outer) == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_gradient_is_clipped_to_the_norm_that_is_asked_for(monkeypatch):
    norms: list[float] = []

    class Spy(torch.optim.AdamW):
        def step(self, closure=None):
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    for clip in (0.0, 0.05):
        train(small_net(), two_colours(), Schedule(steps=4, batch=8, rate=1e-3, clip=clip), seed=0)

    free, clipped = norms[:4], norms[4:]
    assert min(free) > 0.1
    assert clipped == pytest.approx([0.05] * 4, rel=1e-3)


def test_two_starts_with_one_seed_see_the_same_batches():
    seen: list[list[float]] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)
            self.sums: list[float] = []

        def forward(self, x):
            if self.training:
                self.sums.append(x.sum().item())
            return self.head(x.mean((2, 3)))

    for scale in (0.1, 3.0):
        model = Spy()
        nn.init.constant_(model.head.weight, scale)
        train(model, two_colours(), Schedule(steps=5, batch=8, rate=1e-2), seed=3)
        seen.append(model.sums)

    assert len(seen[0]) == 5
    assert seen[0] == seen[1]


def test_further_test_data_are_scored_along_the_way_and_change_nothing():
    class Swapped(TwoColours):
        name = "swapped"

        def batch(self, count, draws):
            x, y = super().batch(count, draws)
            return x, 1 - y

    data = dataclasses.replace(two_colours(), others=(Swapped(),))
    schedule = Schedule(steps=20, batch=8, rate=1e-2, tests=3)

    alone = train(small_net(), two_colours(), schedule, seed=1)
    run = train(small_net(), data, schedule, seed=1)

    assert (run.losses, run.scores) == (alone.losses, alone.scores)
    assert [step for step, _ in run.others["swapped"]] == [0, 10, 20]
    assert [value for _, value in run.others["swapped"]] == pytest.approx(
        [1 - value for _, value in run.scores]
    )


def test_training_twice_gives_the_same_numbers():
    runs = [
        train(small_net(), two_colours(), Schedule(steps=6, batch=8, rate=1e-2), seed=1)
        for _ in range(2)
    ]

    assert runs[0] == runs[1]


def test_what_dropout_draws_follows_from_the_seed_and_the_global_generator_is_left_alone():
    def run(seed):
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 2))
        nn.init.ones_(model[2].weight)
        nn.init.zeros_(model[2].bias)
        return train(model, two_colours(), Schedule(steps=4, batch=8, rate=1e-2, tests=0), seed)

    before = torch.get_rng_state()
    first = run(1)
    after = torch.get_rng_state()
    torch.rand(5)

    assert run(1) == first
    assert run(2) != first
    # Building the layer draws; training does not.
    torch.set_rng_state(before)
    nn.Linear(192, 2)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weights_that_are_no_leaves_can_be_scored_between_steps():
    model = nn.Sequential(nn.Flatten(), torch.nn.utils.weight_norm(nn.Linear(192, 2)))

    run = train(model, two_colours(), Schedule(steps=4, batch=8, rate=1e-2, tests=3), seed=0)

    assert [step for step, _ in run.scores] == [0, 2, 4]


def test_scoring_leaves_the_model_as_it_was():
    model = small_net().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    score(model, two_colours(), batch=16)

    assert model.training
    assert model[1].momentum == 0.1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_score_does_not_depend_on_stale_batch_norm_statistics():
    model = small_net()
    data = two_colours()
    train(model, data, Schedule(steps=30, batch=16, rate=1e-2), seed=0)
    expected = score(model, data, batch=16)

    model[1].running_mean.fill_(100.0)

    assert score(model, data, batch=16) == expected
    assert expected > 0.9


def test_reach_is_the_first_step_whose_trailing_mean_meets_the_goal():
    losses = [4.0, 1.0, 3.0, 2.0, 1.0, 1.0]

    # Means over two steps end at 2.5, 2.0, 2.5, 1.5, 1.0.
    assert reach(losses, 2.0, window=2) == 3
    assert reach(losses, 1.2, window=2) == 6
    assert reach(losses, 0.9, window=2) is None
    assert reach(losses, 1.0, window=1) == 2


def test_a_run_that_diverged_has_an_infinite_final_loss():
    assert Run([1.0, math.nan], [(0, 0.1)]).final_loss == math.inf
    assert Run([9.0] * 18 + [1.0, 3.0], [(0, 0.1)]).final_loss == 2.0


def test_spread_is_the_sample_standard_deviation():
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_and_spread([5.0]) == (5.0, 0.0)


@pytest.mark.gpu
def test_replayed_steps_train_as_steps_that_are_launched_do():
    def losses(cuda_graphs: bool) -> list[float]:
        schedule = Schedule(steps=12, batch=8, rate=1e-2, tests=3, cuda_graphs=cuda_graphs)
        return train(small_net().cuda(), two_colours(), schedule, seed=1).losses

    assert losses(True) == pytest.approx(losses(False), rel=1e-3)


def test_a_tensor_of_a_rate_keeps_its_place_for_recorded_steps():
    rate = torch.tensor(0.5)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=rate)

    _set_rate(optimizer, 0.25)

    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25
