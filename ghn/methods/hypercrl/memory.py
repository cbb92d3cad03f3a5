"""Transitions: the most recent ones of the task at hand, and sets of them to test on.

Shape letters used in this file:
    n: transitions. s: numbers of a state. a: numbers of an action.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from ghn.methods.hypercrl.environments import Transition

__all__ = ["Recent", "Transitions"]


@dataclasses.dataclass(frozen=True)
class Transitions:
    """A set of transitions.

    Attributes:
        states: Before the steps.
        actions: What was done.
        reached: The states after them.
    """

    states: Float32[Tensor, "n s"]
    actions: Float32[Tensor, "n a"]
    reached: Float32[Tensor, "n s"]

    def __len__(self) -> int:
        return len(self.states)

    @property
    def inputs(self) -> Float32[Tensor, "n i"]:
        """States and actions side by side."""
        return torch.cat([self.states, self.actions], 1)

    @property
    def changes(self) -> Float32[Tensor, "n s"]:
        """What the steps changed."""
        return self.reached - self.states

    def at(self, places: Int64[Tensor, " k"]) -> Transitions:
        """Return those at the given places."""
        return Transitions(self.states[places], self.actions[places], self.reached[places])

    def some(self, count: int, generator: torch.Generator) -> Transitions:
        """Return different ones, drawn at random: `count`, or all if there are fewer."""
        return self.at(torch.randperm(len(self), generator=generator)[:count])

    def batch(self, count: int, generator: torch.Generator) -> Transitions:
        """Return `count`, drawn at random, some perhaps more than once."""
        return self.at(torch.randint(len(self), (count,), generator=generator))


class Recent:
    """Keeps the most recent transitions, as many as there is room for.

    Args:
        capacity: The room.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: list[Transition] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, step: Transition) -> None:
        """Keep a transition, in the place of the oldest one if there is no room."""
        if len(self._kept) < self.capacity:
            self._kept.append(step)
        else:
            self._kept[self._next] = step
        self._next = (self._next + 1) % self.capacity

    def all(self) -> Transitions:
        """Return all that are kept."""
        columns = zip(*((t.state, t.action, t.reached) for t in self._kept), strict=True)
        return Transitions(*(torch.stack(column) for column in columns))
