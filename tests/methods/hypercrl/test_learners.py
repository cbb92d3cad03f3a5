"""Learners of dynamics on a cart whose motion has a closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

pytest.importorskip("gymnasium", reason="needs the extra rl: pip install -e '.[rl]'")

import gymnasium
from hypercrl_helpers import (
    ACTIONS,
    LEARNERS,
    STATES,
    Cart,
    cart_cost,
    cart_learner,
    learned,
    true_step,
)

from ghn.engine import GHN
from ghn.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from ghn.methods.hypercrl import HyperCRL, Spaces, transitions_of

FAST = {"steps": 4, "round_steps": 2, "random": 30, "round_transitions": 5}


def states_equal(one, other):
    names = one[0].keys() == other[0].keys()
    return names and all(torch.equal(v, other[0][k]) for k, v in one[0].items())


@pytest.fixture(scope="module")
def dense():
    return learned("dense")


def test_a_task_is_predicted_as_the_closed_form_says_and_an_earlier_one_is_kept(dense):
    g = torch.Generator().manual_seed(0)
    states, actions = torch.rand(64, STATES, generator=g) - 0.5, torch.rand(64, ACTIONS)
    states[:, 3] = states[:, 0] - states[:, 2]

    for gain in (1.0, -1.0):
        reached = dense.dynamics(f"gain {gain}")(states, actions)
        other = dense.dynamics(f"gain {-gain}")(states, actions)
        wanted = true_step(states, actions, gain)
        assert (reached - wanted).norm() < 0.25 * (other - wanted).norm()
        assert (reached - wanted).abs().mean() < 0.02


def test_one_fine_tuned_network_forgets_what_the_hypernetwork_keeps(dense):
    data = transitions_of(Cart(1.0), 200, seed=5)
    tuned = learned("fine-tuning", rounds=0)

    assert dense.error("gain 1.0", data) < 0.05
    assert tuned.error("gain 1.0", data) > 0.5
    assert tuned.error("gain -1.0", transitions_of(Cart(-1.0), 200, seed=5)) < 0.05


def test_a_goal_that_never_moves_within_an_episode_is_predicted_to_stay(dense):
    states = torch.randn(8, STATES)

    reached = dense.dynamics("gain 1.0")(states, torch.zeros(8, ACTIONS))

    assert torch.equal(reached[:, 2], states[:, 2])


def test_the_planner_brings_the_cart_to_its_goal(dense):
    goals = []

    returns = dense.play(
        "gain -1.0", Cart(-1.0), cart_cost, episodes=3, watch=lambda s: goals.append(s[3].abs())
    )

    assert len(returns) == 3
    assert len(goals) == 60
    assert max(goals[19::20]) < 0.15
    assert min(returns) > -6


def test_unexplained_variance_is_that_of_its_definition(dense):
    data = transitions_of(Cart(1.0), 100, seed=6)

    found = dense.error("gain 1.0", data)

    dynamics = dense.dynamics("gain 1.0")
    shares = []
    for place in (0, 1, 3):  # the goal is constant
        missed = dynamics(data.states, data.actions)[:, place] - data.reached[:, place]
        change = (data.reached - data.states)[:, place].numpy()
        shares.append(missed.square().mean().item() / np.var(change))
    assert math.isclose(found, np.mean(shares), rel_tol=1e-4)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_saved_learner_is_the_same_to_the_bit_and_goes_on_the_same(name, tmp_path):
    whole, first = cart_learner(name, **FAST), cart_learner(name, **FAST)
    for learner in (whole, first):
        for gain in (1.0, -1.0):
            learner.learn(f"gain {gain}", Cart(gain), cart_cost)
    first.save(tmp_path / "learner.safetensors", {"note": 1})

    loaded, notes = type(first).load(tmp_path / "learner.safetensors")

    assert notes == {"note": 1}
    assert states_equal(loaded.state(), first.state())
    assert loaded.tasks == first.tasks
    for learner in (whole, loaded):
        learner.learn("third", Cart(0.4), cart_cost)
    assert states_equal(loaded.state(), whole.state())


def test_no_transition_is_kept_and_memory_does_not_depend_on_their_number():
    few, many = (learned("dense", gains=(1.0,), **{**FAST, "random": count}) for count in (30, 200))

    assert few.bytes_held() == many.bytes_held()
    shapes = {tuple(t.shape) for t in few.state()[0].values()}
    assert not any(30 in shape or 35 in shape for shape in shapes)


def test_what_a_hypernetwork_keeps_grows_by_embeddings_and_units_alone():
    learner = learned("dense", gains=(1.0, -1.0, 0.4), **FAST)
    held = [learner.bytes_held()]
    for number in range(2):
        learner.learn(f"further {number}", Cart(0.2 * number), cart_cost)
        held.append(learner.bytes_held())

    units = 2 * (STATES + ACTIONS) + 2 * STATES
    numbers = 2 * learner.config.dim + units  # the snapshot has the embedding too
    names = 100  # names of tasks, as bytes
    for before, after in itertools.pairwise(held):
        assert after - before <= 4 * numbers + 2 * names


def test_a_step_asks_for_as_many_networks_at_the_sixth_task_as_at_the_third(monkeypatch):
    asked, forward = [], GHN.forward

    def counting(self, graphs, condition=None, select=None):
        asked.append(1 if isinstance(condition, str) else len(condition))
        return forward(self, graphs, condition, select)

    monkeypatch.setattr(GHN, "forward", counting)
    learner = cart_learner("dense", rounds=0, **FAST)
    counts = []
    for number in range(6):
        asked.clear()
        learner.learn(f"task {number}", Cart(1.0 + number))
        counts.append(asked[: 2 * FAST["steps"]])  # of the steps: two calls each, from the second

    assert counts[0][: FAST["steps"]] == [1] * FAST["steps"]
    assert counts[2] == counts[5] == [3, 2] * FAST["steps"]


def test_a_coreset_grows_by_what_it_keeps_of_each_task():
    learner = learned("coreset", gains=(1.0, -1.0), kept=20, **FAST)

    kept = {k: v for k, v in learner.state()[0].items() if k.startswith("kept/")}

    assert sum(v.numel() for v in kept.values()) == 2 * 20 * (2 * STATES + ACTIONS)


def test_networks_of_tasks_share_what_the_baseline_says_they_share():
    shared = {}
    for name in ("fine-tuning", "fine-tuning-heads", "separate"):
        learner = learned(name, **FAST)
        one, other = (learner.parameters_of(f"gain {g}") for g in (1.0, -1.0))
        shared[name] = {k for k in one if torch.equal(one[k], other[k])}

    hidden = {"members.0.0.weight", "members.0.0.bias"}
    head = {"members.0.2.weight", "members.0.2.bias"}
    assert shared == {
        "fine-tuning": hidden | head,
        "fine-tuning-heads": hidden,
        "separate": set(),
    }


def test_bounds_of_variances_are_learned_with_their_task_and_then_stay():
    learner = learned("separate", gains=(1.0,), gaussian=True, rounds=0)
    bounds = learner.state()[0]["bounds/0"].clone()
    states, actions = torch.zeros(3, STATES), torch.zeros(3, ACTIONS)
    spread = learner.dynamics("gain 1.0").spread(states, actions)

    learner.learn("gain -1.0", Cart(-1.0))

    assert not torch.allclose(bounds[0], torch.tensor(0.5))
    assert not torch.allclose(bounds[1], torch.tensor(-10.0))
    assert torch.equal(learner.state()[0]["bounds/0"], bounds)
    assert spread[:, [0, 1, 3]].min() > 0
    assert learner.error("gain -1.0", transitions_of(Cart(-1.0), 100, seed=4)) < 0.2


def test_members_of_an_ensemble_differ_and_their_mean_is_predicted():
    learner = learned("dense", gains=(1.0,), members=3, **FAST)
    states, actions = torch.randn(5, STATES), torch.rand(5, ACTIONS)

    dynamics = learner.dynamics("gain 1.0")

    units = {k.removeprefix("units/0/"): v for k, v in learner.state()[0].items()}
    inputs = (torch.cat([states, actions], 1) - units["input_mean"]) / units["input_std"]
    parameters = learner.parameters_of("gain 1.0")
    each = torch.stack(
        [
            functional_call(member, {k.removeprefix(f"members.{i}."): v
             for k, v in parameters.items() if k.startswith(f"members.{i}.")}, (inputs,))
            for i, member in enumerate(learner.network.members)
        ]
    )  # fmt: skip
    assert each.std(0).mean() > 0.05
    expected = states + units["change_mean"] + units["change_std"] * each.mean(0)
    torch.testing.assert_close(dynamics(states, actions)[:, :2], expected[:, :2])
    spread = units["change_std"] * each.std(0, correction=0)
    torch.testing.assert_close(dynamics.spread(states, actions)[:, :2], spread[:, :2])


def test_decay_holds_every_tensor_of_the_network_small():
    sizes = {}
    for decay in (0.0, 0.05):
        learner = learned("separate", gains=(1.0,), decay=decay, rounds=0)
        sizes[decay] = [p.norm().item() for p in learner.parameters_of("gain 1.0").values()]

    assert all(small < 0.9 * large for small, large in zip(sizes[0.05], sizes[0.0], strict=True))


def test_units_of_the_first_task_serve_all_if_they_are_asked_to():
    learner = learned("fine-tuning", gains=(1.0, 0.4), normalise="first", **FAST)
    own = learned("fine-tuning", gains=(1.0, 0.4), **FAST)

    tensors = learner.state()[0]
    assert torch.equal(tensors["units/0/change_std"], tensors["units/1/change_std"])
    tensors = own.state()[0]
    assert not torch.equal(tensors["units/0/change_std"], tensors["units/1/change_std"])


def test_time_is_recorded_by_phase_and_transitions_are_counted():
    record = learned("dense", gains=(1.0,), **FAST).tasks["gain 1.0"]

    assert set(record.phases) == {"random", "planned", "fitting"}
    assert record.transitions == 35
    assert sum(record.phases.values()) <= record.seconds


def test_random_data_alone_need_no_cost():
    learner = cart_learner("dense", **{**FAST, "rounds": 0})

    learner.learn("a", Cart())

    assert learner.tasks["a"].transitions == 30
    with pytest.raises(ConfigError, match="rounds=1 needs cost="):
        cart_learner("dense", **FAST).learn("a", Cart())


def test_any_function_can_plan():
    seen = []

    def planner(dynamics, cost, state):
        states = state.expand(3, -1)
        actions = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
        costs = cost(dynamics(states, actions), actions)
        seen.append(costs.shape)
        return actions[costs.argmin()]

    learner = learned("dense", gains=(1.0,), **FAST)
    learner.learn("other", Cart(-1.0), cart_cost, planner=planner)

    assert seen == [(3,)] * 5
    assert len(learner.play("other", Cart(-1.0), cart_cost, planner=planner)) == 1


class Wider(Cart):
    def __init__(self):
        super().__init__()
        self.observation_space = gymnasium.spaces.Box(-1, 1, (STATES + 1,))


class Stronger(Cart):
    def __init__(self):
        super().__init__()
        self.action_space = gymnasium.spaces.Box(-3, 3, (ACTIONS,))


def nan_reward(state, reward):
    return state, float("nan")


def nan_state(state, reward):
    return np.full_like(state, np.nan), reward


def too_strong(dynamics, cost, state):
    return torch.tensor([0.0, 2.5])


BAD = {
    "other states": (Wider(), {}, ConfigError, "states of 4 numbers.*has 5"),
    "other actions": (Stronger(), {}, ConfigError, r"\[-2, 2\].*\[-3, 3\]"),
    "nan reward": (Cart(spoil=nan_reward), {}, InputError, "reward of nan at step 3"),
    "nan state": (Cart(spoil=nan_state), {}, InputError, "4 finite numbers as a state"),
    "strong planner": (Cart(), {"planner": too_strong}, InputError, r"planner must.*\[-2, 2\]"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("name", ["dense", "coreset"])
def test_bad_environments_and_planners_leave_the_learner_as_it_was(name, what):
    env, further, error, text = BAD[what]
    learner = learned(name, gains=(1.0,), **FAST)
    before = learner.state()
    random = torch.get_rng_state()

    with pytest.raises(error, match=text):
        learner.learn("bad", env, cart_cost, **further)

    assert states_equal(learner.state(), before)
    assert list(learner.tasks) == ["gain 1.0"]
    assert torch.equal(torch.get_rng_state(), random)
    learner.learn("good", Cart(-1.0), cart_cost)


def test_an_interrupted_task_leaves_the_learner_as_it_was():
    learner = learned("dense", gains=(1.0,), **FAST)
    before = learner.state()

    def interrupt(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.learn("second", Cart(-1.0), cart_cost, progress=interrupt)

    assert states_equal(learner.state(), before)


SPACES = {
    "images": ("observation_space", gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)),
    "a dict": ("observation_space", gymnasium.spaces.Dict(x=gymnasium.spaces.Box(0, 1, (2,)))),
    "discrete actions": ("action_space", gymnasium.spaces.Discrete(3)),
    "unbounded actions": ("action_space", gymnasium.spaces.Box(-np.inf, np.inf, (2,))),
}


@pytest.mark.parametrize("what", SPACES)
def test_spaces_that_are_no_bounded_vectors_are_refused(what):
    env = Cart()
    setattr(env, *SPACES[what])

    with pytest.raises(ConfigError, match=r"Box of one axis|finite bounds"):
        HyperCRL(env)
    with pytest.raises(ConfigError, match="gymnasium's methods"):
        Spaces.of(object())


def test_names_are_taken_once_and_unknown_ones_are_answered():
    learner = learned("separate", gains=(1.0,), **FAST)

    with pytest.raises(ConfigError, match="learned already"):
        learner.learn("gain 1.0", Cart(), cart_cost)
    with pytest.raises(UnknownNameError, match=r"gain 1\.0"):
        learner.dynamics("gain 2.0")


def test_files_of_other_learners_are_refused(tmp_path):
    learned("separate", gains=(1.0,), **FAST).save(tmp_path / "one.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")

    for name in ("one", "cut", "none"):
        with pytest.raises(CheckpointError):
            HyperCRL.load(tmp_path / f"{name}.safetensors")
