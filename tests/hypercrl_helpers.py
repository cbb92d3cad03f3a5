"""A cart on a line, hand-written: variants differ in what a force does to it."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch

from ghn.methods.hypercrl import (
    CEMConfig,
    Coreset,
    DynamicsConfig,
    FineTuning,
    FineTuningHeads,
    HyperCRL,
    HyperCRLConfig,
    Joint,
    Separate,
)
from ghn.methods.hypercrl.config import CoresetConfig

STATES, ACTIONS = 4, 2


class Cart(gymnasium.Env):
    """Place, two speeds' worth of one, and a goal; the second action does nothing."""

    def __init__(self, gain=1.0, spoil=None):
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATES,))
        self.action_space = gymnasium.spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))
        self.gain, self.spoil, self.steps = gain, spoil, 0

    def _state(self):
        x, v, goal = self.x, self.v, self.goal
        return np.array([x, v, goal, x - goal], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.v = self.np_random.uniform(-1, 1, 2)
        self.goal = self.np_random.uniform(-0.5, 0.5)
        self.steps = 0
        return self._state(), {}

    def step(self, action):
        self.v = 0.8 * self.v + 0.3 * self.gain * float(action[0])
        self.x += 0.2 * self.v
        self.steps += 1
        state, reward = self._state(), -abs(self.x - self.goal)
        if self.spoil and self.steps > 3:
            state, reward = self.spoil(state, reward)
        return state, reward, False, self.steps >= 20, {}


def cart_cost(states, actions):
    return states[:, 3].abs() + 0.01 * actions.square().sum(1)


COMMON = {
    "steps": 100,
    "rate": 0.01,
    "hidden": (16,),
    "random": 200,
    "rounds": 1,
    "round_transitions": 40,
    "round_steps": 20,
    "batch": 64,
    "planner": CEMConfig(horizon=6, samples=32, elites=6, iterations=2),
}
LEARNERS = {
    "dense": (HyperCRL, HyperCRLConfig, {"decoder": "dense"}),
    "chunked": (HyperCRL, HyperCRLConfig, {"decoder": "chunked", "size": 3000}),
    "recurrent": (HyperCRL, HyperCRLConfig, {"decoder": "recurrent", "size": 3000}),
    "fine-tuning": (FineTuning, DynamicsConfig, {}),
    "fine-tuning-heads": (FineTuningHeads, DynamicsConfig, {}),
    "separate": (Separate, DynamicsConfig, {}),
    "coreset": (Coreset, CoresetConfig, {"kept": 50}),
    "joint": (Joint, CoresetConfig, {}),
}


def cart_learner(name, **settings):
    """A learner by name, at a tiny size."""
    kind, config, own = LEARNERS[name]
    return kind(Cart(), config(**{**COMMON, **own, **settings}))


def learned(name, gains=(1.0, -1.0), **settings):
    """A learner that has learned carts with these gains, named by them."""
    learner = cart_learner(name, **settings)
    for gain in gains:
        learner.learn(f"gain {gain}", Cart(gain), cart_cost)
    return learner


def true_step(states, actions, gain):
    """What the cart does, in closed form."""
    v = 0.8 * states[:, 1] + 0.3 * gain * actions[:, 0]
    x = states[:, 0] + 0.2 * v
    return torch.stack([x, v, states[:, 2], x - states[:, 2]], 1)
