"""Variants and the door, with the simulator; the rest of the suite needs none."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco", reason="needs the extra rl: pip install -e '.[rl]'")
pytest.importorskip("gymnasium", reason="needs the extra rl: pip install -e '.[rl]'")

from ghn.errors import ConfigError, MissingExtraError
from ghn.methods.hypercrl import CEM, CEMConfig
from ghn.methods.hypercrl.door import ANGLE
from ghn.methods.hypercrl.environments import load_gymnasium
from ghn.methods.hypercrl.scenarios import SCENARIOS, make_door
from ghn.methods.hypercrl.variants import Variant, check_variants, make_mujoco, one_step_change


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file where it runs


@pytest.mark.parametrize("name", ["reacher", "pusher", "door"])
def test_tasks_of_a_scenario_move_differently(name):
    scenario = SCENARIOS[name]

    changes = check_variants({n: scenario.make(v) for n, v in scenario.tasks.items()})

    assert list(changes) == list(scenario.tasks)[1:]
    assert min(changes.values()) > 0.15


def test_equal_environments_move_alike_and_gravity_is_no_task_for_a_flat_arm():
    one, same, other = (make_mujoco("Reacher-v5", Variant()) for _ in range(3))
    other.unwrapped.model.opt.gravity[2] = -5.0

    assert one_step_change(one, same, 40) < 1e-3  # the solver starts elsewhere
    assert one_step_change(one, other, 40) < 0.01
    with pytest.raises(ConfigError, match=r"'other' moves like 'one' to within 0\.\d %"):
        check_variants({"one": one, "other": other})


def test_a_gear_of_minus_one_is_the_other_motor_command():
    one, other = make_mujoco("Reacher-v5", Variant()), make_mujoco("Reacher-v5", Variant(gear=-1.0))
    one.reset(seed=3), other.reset(seed=3)

    action = np.array([0.4, -0.7], np.float32)

    np.testing.assert_allclose(one.step(action)[0], other.step(-action)[0], atol=1e-6)


def test_all_parts_of_a_variant_change_the_model():
    variant = Variant(
        mass={"object": 2.0},
        damping={"obj_slidex": 3.0},
        friction=0.5,
        stiffness={"obj_slidey": 7.0},
    )
    before = make_mujoco("Pusher-v5", Variant()).unwrapped.model
    after = make_mujoco("Pusher-v5", variant).unwrapped.model

    assert after.body("object").mass[0] == 2 * before.body("object").mass[0]
    np.testing.assert_allclose(after.body("object").inertia, 2 * before.body("object").inertia)
    assert after.joint("obj_slidex").damping[0] == 3 * before.joint("obj_slidex").damping[0]
    np.testing.assert_allclose(after.geom_friction[:, 0], 0.5 * before.geom_friction[:, 0])
    assert after.joint("obj_slidey").stiffness[0] == 7
    with pytest.raises(ConfigError, match="no such part"):
        make_mujoco("Pusher-v5", Variant(mass={"objekt": 2.0}))


def test_a_mirrored_door_is_the_mirror_image():
    plain, mirrored = make_door(), make_door(Variant(mirrored="door"))
    for env in (plain, mirrored):
        env.reset(seed=0)
        env.unwrapped.set_state(np.array([0.5, 2.0, 0.7]), np.zeros(3))

    (x, y), (other_x, other_y) = (e.unwrapped._get_obs()[8:10] for e in (plain, mirrored))

    assert x == pytest.approx(-other_x)
    assert y == pytest.approx(other_y)
    assert y > 0.6  # it opens away from the arm


def test_a_door_is_pushed_open_by_a_planner_that_knows_the_simulator():
    env, model = make_door(), make_door()
    model.reset(seed=0)
    scenario = SCENARIOS["door"]

    def simulator(states, actions):
        reached = []
        for state, action in zip(states.double().numpy(), actions.numpy(), strict=True):
            model.unwrapped.set_state(state[:3], state[3:6])
            model.unwrapped.do_simulation(action, 8)
            reached.append(model.unwrapped._get_obs())
        return torch.tensor(np.stack(reached), dtype=torch.float32)

    config = CEMConfig(horizon=10, samples=16, elites=4, iterations=1, hold=5)
    plan = CEM(*torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), config, torch.Generator().manual_seed(0))
    state, _ = env.reset(seed=4)
    angles = [state[ANGLE]]
    for _ in range(25):
        action = plan(simulator, scenario.cost, torch.tensor(state, dtype=torch.float32))
        state = env.step(action.numpy())[0]
        angles.append(state[ANGLE])

    assert angles[0] < 0.3
    assert scenario.success(torch.tensor(angles)[:, None].expand(-1, 3))


@pytest.mark.parametrize("name", ["reacher", "pusher", "door"])
def test_the_planners_cost_is_the_environments_reward_negated(name):
    scenario = SCENARIOS[name]
    env = scenario.make(Variant())
    env.reset(seed=0)
    generator = np.random.default_rng(0)

    for _ in range(5):
        action = generator.uniform(-0.5, 0.5, env.action_space.shape).astype(np.float32)
        state, reward, *_ = env.step(action)
        found = scenario.cost(torch.tensor(state)[None], torch.tensor(action)[None])
        assert -found.item() == pytest.approx(reward, abs=1e-4)


@pytest.mark.parametrize("missing", ["gymnasium", "mujoco"])
def test_what_is_not_installed_is_named_with_its_extra(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(MissingExtraError, match=r"ghn\[rl\]"):
        make_door()
    with pytest.raises(MissingExtraError, match=r"ghn\[rl\]"):
        SCENARIOS["reacher"].make(Variant())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems draw without a display")
@pytest.mark.parametrize(
    ("libraries", "chosen"),
    [(["EGL", "OSMesa"], "egl"), (["OSMesa"], "osmesa"), ([], "disabled")],
)
def test_a_machine_that_cannot_draw_still_simulates(libraries, chosen, monkeypatch):
    for name in ("DISPLAY", "MUJOCO_GL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: name in libraries or None)

    load_gymnasium()

    assert os.environ["MUJOCO_GL"] == chosen
