"""Acting at random, transitions to test on, and a diary of what happened.

Shape letters used in this file:
    s: numbers of a state. a: numbers of an action.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float32
from torch import Tensor

from ghn.methods.hypercrl.environments import Act, Environment, Spaces, steps_of
from ghn.methods.hypercrl.memory import Recent, Transitions
from ghn.rng import make_generator

__all__ = ["Diary", "random_actions", "transitions_of"]


class Diary:
    """What happened while a task was learned."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.transitions = 0
        self.returns: list[float] = []

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the processor's time of a block to a phase: other processes do not count."""
        start = time.process_time()
        yield
        self.phases[phase] = self.phases.get(phase, 0.0) + time.process_time() - start


def random_actions(spaces: Spaces, hold: int, generator: torch.Generator) -> Act:
    """Return a policy that draws actions evenly within bounds and keeps each for some steps."""
    low, high = spaces.bounds
    current, left = low, 0

    def act(state: Float32[Tensor, " s"]) -> Float32[Tensor, " a"]:
        nonlocal current, left
        if left == 0:
            current = low + (high - low) * torch.rand(len(low), generator=generator)
            left = hold
        left -= 1
        return current

    return act


def transitions_of(
    env: Environment, count: int, *, hold: int = 2, longest: int = 1000, seed: int = 0
) -> Transitions:
    """Return transitions by random actions, such as to test on."""
    spaces = Spaces.of(env)
    act = random_actions(spaces, hold, make_generator(seed, "transitions"))
    recent = Recent(count)
    for step in itertools.islice(steps_of(env, act, spaces, longest=longest, seed=seed), count):
        recent.add(step)
    return recent.all()
