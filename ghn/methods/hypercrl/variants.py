"""Variants of MuJoCo environments: the compiled model is edited in place, and checked for effect.

A change of a model need not change what the environment does: with random actions half the gravity
moves HalfCheetah's next state by 0.2 %. `one_step_change` measures it.

Shape letters used in this file:
    n: states.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ghn.errors import ConfigError
from ghn.methods.hypercrl.environments import load_gymnasium

__all__ = ["LEAST_CHANGE", "Variant", "check_variants", "one_step_change"]

LEAST_CHANGE = 0.05
"""Relative change of one step below which a variant is no task of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """How a model differs from the one that an environment comes with.

    Attributes:
        gear: Factor on what all motors do; negative: the other way round.
        mass: Factors on masses and inertias, by the name of the body.
        damping: Factors on the damping of joints, by name.
        friction: Factor on the sliding friction of all surfaces.
        stiffness: Stiffness of joints, by name, in N m / rad or N / m.
        mirrored: Name of a body whose joints and shapes change sides, x for -x; its turns are
            counted the other way round.
    """

    gear: float = 1.0
    mass: dict[str, float] = dataclasses.field(default_factory=dict)
    damping: dict[str, float] = dataclasses.field(default_factory=dict)
    friction: float = 1.0
    stiffness: dict[str, float] = dataclasses.field(default_factory=dict)
    mirrored: str = ""

    def apply(self, env: Any) -> Any:
        """Edit the model of an environment; return the environment.

        Raises:
            ConfigError: If it is no MuJoCo environment, or the model lacks a name.
        """
        import mujoco

        inner = env.unwrapped
        if not hasattr(inner, "model") or not hasattr(inner.model, "actuator_gear"):
            raise ConfigError(f"a variant edits a MuJoCo environment, got {env}")
        model = inner.model
        model.actuator_gear[:, 0] *= self.gear
        model.geom_friction[:, 0] *= self.friction
        for name, factor in self.mass.items():
            body = _named(model.body, name)
            body.mass[:] = factor * body.mass
            body.inertia[:] = factor * body.inertia
        for name, factor in self.damping.items():
            joint = _named(model.joint, name)
            joint.damping[:] = factor * joint.damping
        for name, value in self.stiffness.items():
            _named(model.joint, name).stiffness[:] = value
        if self.mirrored:
            _mirror(model, _named(model.body, self.mirrored).id)
        mujoco.mj_setConst(model, inner.data)
        return env


def one_step_change(one: Any, other: Any, count: int = 400, seed: int = 0) -> float:
    """Return how differently two MuJoCo environments move from the same states, by their motors.

    States come from random actions in the first. It is the norm of the difference of the changes
    of all states over the norm of the first one's changes, each number in units of its own standard
    deviation there.

    Args:
        one: An environment.
        other: A variant of it.
        count: Number n of states.
        seed: Of states and actions.
    """
    generator = np.random.default_rng(seed)
    space = one.action_space
    changes: list[np.ndarray[Any, Any]] = []
    others: list[np.ndarray[Any, Any]] = []
    for number in range(count):
        if number % 20 == 0:
            state, _ = one.reset(seed=seed + number)
            other.reset(seed=seed + number)
        action = generator.uniform(space.low, space.high).astype(np.float32)
        place = [getattr(one.unwrapped.data, name).copy() for name in ("qpos", "qvel")]
        other.unwrapped.set_state(*place)
        before = other.unwrapped._get_obs()
        reached = one.step(action)[0]
        others.append(other.step(action)[0] - before)
        changes.append(reached - state)
        state = reached
    own, theirs = np.stack(changes), np.stack(others)
    deviation = own.std(0)
    moves = deviation > 1e-9
    own, theirs = own[:, moves] / deviation[moves], theirs[:, moves] / deviation[moves]
    return float(np.linalg.norm(theirs - own) / np.linalg.norm(own))


def check_variants(environments: dict[str, Any]) -> dict[str, float]:
    """Return for each environment the least change of one step from those before it.

    Raises:
        ConfigError: If that is below 5 %.
    """
    names = list(environments)
    found = {}
    for place, name in enumerate(names[1:], 1):
        changes = {
            earlier: one_step_change(environments[earlier], environments[name])
            for earlier in names[:place]
        }
        nearest = min(changes, key=lambda earlier: changes[earlier])
        found[name] = changes[nearest]
        if found[name] < LEAST_CHANGE:
            raise ConfigError(
                f"variant {name!r} moves like {nearest!r} to within {100 * found[name]:.1f} %; a "
                f"task of its own needs {100 * LEAST_CHANGE:.0f} %, so change it further"
            )
    return found


def make_mujoco(name: str, variant: Variant, **settings: Any) -> Any:
    """Return a variant of one of gymnasium's MuJoCo environments.

    Raises:
        MissingExtraError: If gymnasium or MuJoCo is not installed.
    """
    return variant.apply(load_gymnasium().make(name, **settings))


def _named(kind: Any, name: str) -> Any:
    try:
        return kind(name)
    except KeyError as error:
        raise ConfigError(f"the model has no such part: {error}") from error


def _mirror(model: Any, body: int) -> None:
    """Exchange a body's left and right."""
    joints = np.flatnonzero(model.jnt_bodyid == body)
    model.jnt_pos[joints, 0] *= -1
    model.jnt_axis[joints] *= -1
    shapes = np.flatnonzero(model.geom_bodyid == body)
    model.geom_pos[shapes, 0] *= -1
    sites = np.flatnonzero(model.site_bodyid == body)
    model.site_pos[sites, 0] *= -1
