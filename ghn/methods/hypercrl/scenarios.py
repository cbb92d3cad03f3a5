"""Scenarios: sequences of tasks, what they cost, and when they are done.

Locomotion, reaching, pushing and the opening of a door, after HyperCRL's scenarios. Tasks of one
scenario contradict each other: what one action does, or how the door moves, differs.

Shape letters used in this file:
    n: states. s: numbers of a state. a: numbers of an action.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ghn.methods.hypercrl.environments import load_gymnasium
from ghn.methods.hypercrl.planner import Cost
from ghn.methods.hypercrl.variants import Variant, make_mujoco
from ghn.registry import Registry

__all__ = ["DOOR", "SCENARIOS", "Scenario", "make_door"]

DOOR = "ghn/Door-v0"
"""Name under which the door is registered with gymnasium."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """A sequence of tasks.

    Attributes:
        summary: What the tasks are, in one line.
        make: Makes the environment of a variant, with further settings such as `render_mode`.
        tasks: Variants by name, in the order in which they are learned.
        cost: What the planner minimises.
        settings: Settings of learners for this scenario.
        success: From the states of an episode, [n, s], to whether it reached its goal; None where
            there is nothing to reach.
        episodes: Episodes that are played to score a task.
    """

    summary: str
    make: Callable[..., Any]
    tasks: Mapping[str, Variant]
    cost: Cost
    settings: Mapping[str, Any]
    success: Callable[[Tensor], bool] | None = None
    episodes: int = 10


SCENARIOS: Registry[Scenario] = Registry("scenario")
"""Scenarios by name."""


def _gears(factors: Mapping[str, float]) -> dict[str, Variant]:
    return {name: Variant(gear=factor) for name, factor in factors.items()}


def _cheetah_cost(
    states: Float[Tensor, "n s"], actions: Float[Tensor, "n a"]
) -> Float[Tensor, " n"]:
    """Return HalfCheetah-v5's reward, negated, with the speed at the end of the step."""
    return 0.1 * actions.square().sum(1) - states[:, 8]


def _reacher_cost(
    states: Float[Tensor, "n s"], actions: Float[Tensor, "n a"]
) -> Float[Tensor, " n"]:
    """Return Reacher-v5's reward, negated."""
    return states[:, 8:10].norm(dim=1) + actions.square().sum(1)


def _pusher_cost(
    states: Float[Tensor, "n s"], actions: Float[Tensor, "n a"]
) -> Float[Tensor, " n"]:
    """Return Pusher-v5's reward, negated."""
    tip, thing, goal = states[:, 14:17], states[:, 17:20], states[:, 20:23]
    away = (thing - goal).norm(dim=1) + 0.5 * (thing - tip).norm(dim=1)
    return away + 0.1 * actions.square().sum(1)


def _door_cost(states: Float[Tensor, "n s"], actions: Float[Tensor, "n a"]) -> Float[Tensor, " n"]:
    """Return the door's reward, negated."""
    away = (states[:, 6:8] - states[:, 8:10]).norm(dim=1)
    return 0.5 * away - states[:, 2] + 0.01 * actions.square().sum(1)


def make_door(variant: Variant | None = None, **settings: Any) -> Any:
    """Return a variant of the door.

    Raises:
        MissingExtraError: If gymnasium or MuJoCo is not installed.
    """
    gymnasium = load_gymnasium()
    if DOOR not in gymnasium.registry:
        gymnasium.register(
            DOOR, entry_point="ghn.methods.hypercrl.door:DoorEnv", max_episode_steps=50
        )
    return make_mujoco(DOOR, variant or Variant(), **settings)


def _opened(states: Float[Tensor, "n s"]) -> bool:
    from ghn.methods.hypercrl.door import ANGLE, OPENED

    return bool(states[:, ANGLE].max() > OPENED)


def _of(name: str, **settings: Any) -> Callable[..., Any]:
    """Return what makes variants of one of gymnasium's environments."""

    def make(variant: Variant, **further: Any) -> Any:
        return make_mujoco(name, variant, **settings, **further)

    return make


SCENARIOS.register("half-cheetah")(
    Scenario(
        summary="HalfCheetah-v5; motors as they are, reversed, at 0.4 of their strength",
        make=_of("HalfCheetah-v5", max_episode_steps=50),
        tasks=_gears({"standard": 1.0, "reversed": -1.0, "weak": 0.4}),
        cost=_cheetah_cost,
        settings={
            "random": 6000,
            "steps": 1500,
            "rounds": 0,
            "planner": {"horizon": 10, "samples": 96, "elites": 10},
        },
        episodes=1,
    )
)
SCENARIOS.register("reacher")(
    Scenario(
        summary="Reacher-v5, 100 steps; motors as they are, reversed, at 0.4 of their strength",
        make=_of("Reacher-v5", max_episode_steps=100),
        tasks=_gears({"standard": 1.0, "reversed": -1.0, "weak": 0.4}),
        cost=_reacher_cost,
        settings={
            "random": 2000,
            "steps": 500,
            "rounds": 1,
            "round_transitions": 200,
            "round_steps": 200,
            "planner": {"horizon": 16, "iterations": 6, "spread": 0.4, "hold": 2},
        },
        episodes=6,
    )
)
SCENARIOS.register("reacher-eight")(
    Scenario(
        summary="Reacher-v5 with eight strengths of its motors, for what each further task costs",
        make=_of("Reacher-v5"),
        tasks=_gears({f"gear {g:g}": g for g in (1.0, -1.0, 0.4, -0.4, 0.7, -0.7, 0.2, -0.2)}),
        cost=_reacher_cost,
        settings={
            "random": 1000,
            "steps": 250,
            "rounds": 0,
            "planner": {"horizon": 16, "iterations": 6, "spread": 0.4, "hold": 2},
        },
        episodes=1,
    )
)
SCENARIOS.register("pusher")(
    Scenario(
        summary="Pusher-v5; as it is, weak motors and a sluggish object, motors reversed",
        make=_of("Pusher-v5"),
        tasks={
            "standard": Variant(),
            "weak": Variant(gear=0.4, damping={"obj_slidex": 4.0, "obj_slidey": 4.0}),
            "reversed": Variant(gear=-1.0),
        },
        cost=_pusher_cost,
        settings={
            "random": 3000,
            "steps": 600,
            "rounds": 1,
            "round_transitions": 200,
            "round_steps": 200,
            "planner": {"horizon": 20, "iterations": 5, "spread": 0.4, "hold": 4},
        },
        episodes=1,
    )
)
SCENARIOS.register("door")(
    Scenario(
        summary="a door of our own; as it is, stiff and damped, with its handle on the other side",
        make=make_door,
        tasks={
            "standard": Variant(),
            "stiff": Variant(stiffness={"hinge": 1.0}, damping={"hinge": 3.0}),
            "other side": Variant(mirrored="door"),
        },
        cost=_door_cost,
        settings={
            "random": 3000,
            "hold": 4,
            "steps": 600,
            "rounds": 2,
            "round_transitions": 250,
            "round_steps": 250,
            "planner": {"horizon": 15, "samples": 96, "elites": 10, "iterations": 2, "hold": 5},
        },
        success=_opened,
    )
)
