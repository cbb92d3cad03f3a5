"""What an environment must be, and how it is stepped: any of gymnasium's with vector spaces.

Shape letters used in this file:
    s: numbers of a state. a: numbers of an action.
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import functools
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float32
from torch import Tensor

from ghn.errors import ConfigError, InputError, MissingExtraError
from ghn.rng import derive_seed

__all__ = ["Environment", "Spaces", "Transition", "load_gymnasium", "steps_of"]

Act = Callable[[Float32[Tensor, " s"]], Float32[Tensor, " a"]]
"""From a state to an action."""


@runtime_checkable
class Environment(Protocol):
    """What is used of a `gymnasium.Env`."""

    observation_space: Any
    action_space: Any

    def reset(self, *, seed: int | None = None) -> Any:
        """Begin an episode; return a state and information."""
        ...

    def step(self, action: Any) -> Any:
        """Return state, reward, whether the episode ended, was cut off, and information."""
        ...


@dataclasses.dataclass(frozen=True)
class Spaces:
    """Sizes of states and actions, and the bounds of actions.

    Attributes:
        states: Numbers s of a state.
        low: Least value of each number of an action.
        high: Greatest value.
    """

    states: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def actions(self) -> int:
        """Numbers a of an action."""
        return len(self.low)

    @functools.cached_property
    def bounds(self) -> Float32[Tensor, "2 a"]:
        """The bounds as a tensor, lower ones first."""
        return torch.tensor([self.low, self.high])

    @classmethod
    def of(cls, env: Any) -> Spaces:
        """Read the spaces of an environment.

        Raises:
            ConfigError: If a space is no vector, or actions are not bounded.
        """
        if not isinstance(env, Environment):
            raise ConfigError(f"an environment with gymnasium's methods is needed, got {env!r}")
        shapes = {}
        for name in ("observation_space", "action_space"):
            space = getattr(env, name)
            shape, low = getattr(space, "shape", None), getattr(space, "low", None)
            if low is None or shape is None or len(shape) != 1 or not shape[0]:
                raise ConfigError(
                    f"the {name.replace('_', ' ')} must be a Box of one axis, got {space}; images, "
                    "dicts and discrete spaces have to be turned into vectors first, such as by "
                    "gymnasium.wrappers.FlattenObservation"
                )
            shapes[name] = int(shape[0])
        bounds = [tuple(map(float, getattr(env.action_space, side))) for side in ("low", "high")]
        if not torch.tensor(bounds).isfinite().all() or not all(map(float.__lt__, *bounds)):
            raise ConfigError(
                f"actions need finite bounds, got {env.action_space}; "
                "gymnasium.wrappers.RescaleAction or ClipAction set some"
            )
        return cls(shapes["observation_space"], *bounds)

    def check(self, env: Environment) -> None:
        """Refuse an environment with other spaces.

        Raises:
            ConfigError: If sizes or bounds differ.
        """
        found = Spaces.of(env)
        if found != self:
            raise ConfigError(
                f"the first task has states of {self.states} numbers and actions within "
                f"{_bounds(self)}, this environment has {found.states} and {_bounds(found)}; a "
                "learner's tasks share one network, so that their spaces must agree"
            )

    def checked_action(self, action: Any, who: str) -> Float32[Tensor, " a"]:
        """Return an action as a tensor.

        Raises:
            InputError: If it is not finite, of another size, or out of bounds.
        """
        found = torch.as_tensor(action, dtype=torch.float32).detach().cpu()
        low, high = self.bounds
        room = 1e-5 * (high - low)
        fits = found.shape == low.shape and bool(
            ((found >= low - room) & (found <= high + room)).all()
        )
        if not fits:
            raise InputError(
                f"{who} must give {self.actions} numbers within {_bounds(self)}, got "
                f"{found.tolist()}; bound them by torch.clamp, or use CEM, which does"
            )
        return found.clamp(low, high)


@dataclasses.dataclass(frozen=True)
class Transition:
    """One step of an environment.

    Attributes:
        state: Before the step.
        action: What was done.
        reached: The state after it.
        reward: What the environment gave.
        first: Whether the episode began with this step.
        last: Whether it ended with it.
    """

    state: Float32[Tensor, " s"]
    action: Float32[Tensor, " a"]
    reached: Float32[Tensor, " s"]
    reward: float
    first: bool
    last: bool


def steps_of(
    env: Environment,
    act: Act,
    spaces: Spaces,
    *,
    longest: int,
    seed: int,
    begin: Callable[[], None] = lambda: None,
) -> Iterator[Transition]:
    """Step through episodes, one after another, without end.

    Args:
        env: Where.
        act: Chooses actions.
        spaces: Those of the learner.
        longest: Steps after which an episode is ended, if the environment does not end it before.
        seed: Of the environment; each episode has its own.
        begin: Called at the beginning of each episode.

    Raises:
        InputError: If a state or reward is not finite, or an action does not fit.
    """
    episode = 0
    while True:
        begin()
        state = _state(env.reset(seed=derive_seed(seed, episode) & 0x7FFFFFFF)[0], spaces)
        for number in range(longest):
            action = spaces.checked_action(act(state), "the planner")
            found, reward, ended, cut, _ = env.step(action.numpy())
            reached = _state(found, spaces)
            if not math.isfinite(reward):
                raise InputError(
                    f"the environment gave a reward of {reward} at step {number} of episode "
                    f"{episode}; rewards must be finite. The learner was left as it was"
                )
            last = bool(ended or cut) or number + 1 == longest
            yield Transition(state, action, reached, float(reward), number == 0, last)
            state = reached
            if last:
                break
        episode += 1


def _state(found: Any, spaces: Spaces) -> Float32[Tensor, " s"]:
    state = torch.as_tensor(found, dtype=torch.float32).clone()
    if state.shape != (spaces.states,) or not state.isfinite().all():
        raise InputError(
            f"the environment must give {spaces.states} finite numbers as a state, got "
            f"{state.tolist()}. The learner was left as it was"
        )
    return state


def _bounds(spaces: Spaces) -> str:
    pairs = zip(spaces.low, spaces.high, strict=True)
    return ", ".join(f"[{low:g}, {high:g}]" for low, high in pairs)


def load_gymnasium() -> Any:
    """Return gymnasium, once it is known that MuJoCo is there too.

    Where there is no display, pictures are drawn through EGL or OSMesa, unless MUJOCO_GL says
    otherwise, and not at all where neither is installed; it has to be said before MuJoCo is
    imported, which fails on a missing one.

    Raises:
        MissingExtraError: If one of them is not installed.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", _offscreen())
    try:
        import gymnasium
        import mujoco
    except ImportError as error:
        raise MissingExtraError(
            f"this needs gymnasium with MuJoCo ({error}): pip install 'ghn[rl]'"
        ) from error
    mujoco.set_mju_user_warning(_warn)
    return gymnasium


def _offscreen() -> str:
    for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            return name
    return "disabled"


def _warn(text: str) -> None:
    """Turn MuJoCo's warnings into Python's, instead of a file in the current folder.

    That an attribute of HalfCheetah's scene has become old is not passed on.
    """
    if "settotalmass" not in text:
        warnings.warn(f"MuJoCo: {text}", stacklevel=2)
