"""A door with a handle, and an arm that pushes it open: a small scene for gymnasium, our own.

It is seen from above and has no gravity. The door opens away from the arm, against its hinge's
stiffness, damping and friction; the end of the arm touches the door and its handle, the rest of the
arm passes them. HyperCRL's door was a scene of another simulator, with variants of handle and of
direction.

Shape letters used in this file:
    s: numbers of a state, 10. a: numbers of an action, 2.
"""

from __future__ import annotations

import importlib.resources
from typing import Any

import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box
from jaxtyping import Float64

__all__ = ["ANGLE", "OPENED", "DoorEnv"]

ANGLE = 2
"""Place of the door's angle, in rad, among the numbers of a state."""
OPENED = 0.5
"""Angle in rad beyond which the door counts as opened."""
UPPER, FORE = 0.5, 0.48  # lengths of the arm, in m
NEAR = 0.5  # weight of the way between the arm's end and the handle, in 1/m

State = Float64[np.ndarray, " s"]


class DoorEnv(MujocoEnv):
    """Open the door.

    A state is: shoulder, elbow, door (rad); their speeds (rad/s); the arm's end and the handle, x
    and y (m). An action is the torque of shoulder and elbow, as a share of the motors' greatest.
    The reward is the door's angle, less half the way from the arm's end to the handle, less a
    hundredth of the action's square. An episode has no end of its own.

    Args:
        settings: Of rendering; see `gymnasium.envs.mujoco.MujocoEnv`.
    """

    metadata = {  # noqa: RUF012
        "render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"],
        "render_fps": 25,
    }

    def __init__(self, **settings: Any) -> None:
        scene = importlib.resources.files("ghn.methods.hypercrl") / "door.xml"
        space = Box(-np.inf, np.inf, (10,), np.float64)
        with importlib.resources.as_file(scene) as path:
            super().__init__(str(path.resolve()), 8, space, camera_name="above", **settings)

    def step(self, action: Any) -> tuple[State, np.float64, bool, bool, dict[str, np.float64]]:
        """Turn the motors for 0.04 s."""
        self.do_simulation(action, self.frame_skip)
        state = self._get_obs()
        away = float(np.linalg.norm(state[6:8] - state[8:10]))
        reward = np.float64(state[ANGLE] - NEAR * away - 0.01 * np.square(action).sum())
        if self.render_mode == "human":
            self.render()
        return state, reward, False, False, {"angle": state[ANGLE]}

    def reset_model(self) -> State:
        """Put the arm's end somewhere before the door, which is closed or ajar."""
        x, y, door = self.np_random.uniform((-0.3, 0.25, 0.0), (0.3, 0.42, 0.25))
        far = np.hypot(x, y)
        elbow = np.arccos((far**2 - UPPER**2 - FORE**2) / (2 * UPPER * FORE))
        inner = np.arctan2(FORE * np.sin(elbow), UPPER + FORE * np.cos(elbow))
        shoulder = np.arctan2(y, x) - inner
        self.set_state(np.array([shoulder, elbow, door]), np.zeros(3))
        return self._get_obs()

    def _get_obs(self) -> State:
        places = [self.data.site(name).xpos[:2] for name in ("tip", "handle")]
        return np.concatenate([self.data.qpos, self.data.qvel, *places])
