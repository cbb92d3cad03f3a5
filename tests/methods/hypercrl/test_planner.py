"""The planner on a problem whose best plan is known, without any environment."""

from __future__ import annotations

import pytest
import torch

from ghn.errors import ConfigError
from ghn.methods.hypercrl import CEM, CEMConfig

LOW, HIGH = torch.tensor([-1.0, -0.2]), torch.tensor([1.0, 0.2])


def moved(states, actions):
    return states + actions


def distance(goal):
    return lambda states, actions: (states - goal).square().sum(1)


def planner(seed=0, **settings):
    return CEM(LOW, HIGH, CEMConfig(**settings), torch.Generator().manual_seed(seed))


def test_actions_stay_within_bounds_and_reach_what_can_be_reached():
    goal, state = torch.tensor([3.0, 0.9]), torch.zeros(2)
    plan = planner(horizon=4)

    path = [state]
    for _ in range(8):
        action = plan(moved, distance(goal), path[-1])
        assert (action >= LOW).all()
        assert (action <= HIGH).all()
        path.append(path[-1] + action)

    assert path[1][0] > 0.9
    torch.testing.assert_close(path[-1], goal, atol=0.15, rtol=0)


def test_a_warm_start_plans_better_than_a_cold_one_with_few_draws():
    goal = torch.tensor([4.0, 0.5])
    gaps = {True: 0.0, False: 0.0}
    for warm in gaps:
        for seed in range(10):
            plan = planner(seed, samples=12, elites=4, iterations=1, horizon=6)
            state = torch.zeros(2)
            for _ in range(6):
                if not warm:
                    plan.reset()
                state = state + plan(moved, distance(goal), state)
            gaps[warm] += (state - goal).norm().item()

    assert gaps[True] < 0.9 * gaps[False]


def test_after_a_reset_the_same_draws_give_the_same_action():
    goal = torch.tensor([1.0, 0.0])
    one, other = planner(3), planner(3)
    first = one(moved, distance(goal), torch.zeros(2))

    one.generator.manual_seed(3)
    one.reset()

    assert torch.equal(one(moved, distance(goal), torch.zeros(2)), first)
    assert torch.equal(other(moved, distance(goal), torch.zeros(2)), first)


def test_plans_whose_numbers_explode_are_not_chosen():
    def explosive(states, actions):
        return torch.where(actions[:, :1] > 0, torch.inf, states + actions)

    action = planner()(explosive, distance(torch.tensor([2.0, 0.0])), torch.zeros(2))

    assert action[0] <= 0


def test_a_held_action_is_kept_for_its_steps_in_each_plan():
    seen = []

    def watched(states, actions):
        seen.append(actions.clone())
        return states + actions

    planner(horizon=6, hold=3, iterations=1)(
        watched, distance(torch.tensor([1.0, 0.0])), torch.zeros(2)
    )

    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[2], seen[3])
    assert torch.equal(seen[3], seen[5])


@pytest.mark.parametrize(
    "settings", [{"horizon": 0}, {"elites": 1}, {"samples": 4}, {"spread": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError):
        CEMConfig(**settings)
