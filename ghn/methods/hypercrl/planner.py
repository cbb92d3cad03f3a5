"""Planning: actions that a model of the dynamics says are cheap.

A planner is any function of a dynamics, a cost and a state that returns an action within bounds.
The one here is the cross-entropy method: it draws sequences of actions, keeps the best ones, and
draws again around them. It begins with the plan of the step before, shifted by one step.

Source: Rubinstein 1999; model-predictive control with it in HyperCRL (arXiv 2009.11997) and PETS
(arXiv 1805.12114). Bounds and the warm start are not in HyperCRL's code.

Shape letters used in this file:
    n: sequences. h: steps ahead. s: numbers of a state. a: numbers of an action. e: elites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ghn.config import Config
from ghn.errors import ConfigError

__all__ = ["CEM", "CEMConfig", "Cost", "Dynamics", "Planner"]

Dynamics = Callable[[Tensor, Tensor], Tensor]
"""From states [n, s] and actions [n, a] to the states [n, s] that are reached."""

Cost = Callable[[Tensor, Tensor], Tensor]
"""From the states [n, s] that were reached and the actions [n, a] to costs [n]."""

Planner = Callable[[Dynamics, Cost, Tensor], Tensor]
"""From a dynamics, a cost and a state [s] to an action [a] within bounds.

If it has a method `reset()`, that is called before each episode."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CEMConfig(Config):
    """Settings of `CEM`.

    Attributes:
        horizon: Steps h that a plan looks ahead.
        samples: Sequences n of each iteration.
        elites: How many of the cheapest ones the next iteration is drawn around.
        iterations: How often.
        spread: Standard deviation of the first draws, as a share of half the range of an action.
        hold: Steps for which an action is kept, so that plans are smooth and few numbers are
            searched.
    """

    horizon: int = 12
    samples: int = 128
    elites: int = 12
    iterations: int = 3
    spread: float = 0.6
    hold: int = 1

    def __post_init__(self) -> None:
        if min(self.horizon, self.iterations, self.hold) < 1 or not self.spread > 0:
            raise ConfigError(f"numbers must be at least 1 and spread above 0, got {self}")
        if not 2 <= self.elites <= self.samples:
            raise ConfigError(f"elites must lie between 2 and samples, got {self}")


class CEM:
    """The cross-entropy method with bounds and a warm start.

    Args:
        low: Least value of each number of an action.
        high: Greatest value.
        config: Sizes.
        generator: Where the draws come from.
    """

    def __init__(
        self,
        low: Float[Tensor, " a"],
        high: Float[Tensor, " a"],
        config: CEMConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.config = config or CEMConfig()
        self.low, self.high, self.generator = low, high, generator
        self._blocks = -(-self.config.horizon // self.config.hold)
        self._plan = self._middle()
        self._age = 0

    def reset(self) -> None:
        """Forget the plan of the step before."""
        self._plan = self._middle()
        self._age = 0

    @torch.no_grad()
    def __call__(
        self, dynamics: Dynamics, cost: Cost, state: Float[Tensor, " s"]
    ) -> Float[Tensor, " a"]:
        """Return the first action of the cheapest sequence."""
        mean = self._plan
        half = (self.high - self.low) / 2
        std = (self.config.spread * half).expand_as(mean)
        best, lowest = mean, torch.tensor(float("inf"))
        for _ in range(self.config.iterations):
            noise = torch.randn(
                self.config.samples, *mean.shape, generator=self.generator, dtype=mean.dtype
            )
            plans = (mean + std * noise).clamp(self.low, self.high)
            # Where actions cost much, single draws are dear, but not what the best have in common.
            plans[0], plans[1] = best, mean
            totals = self._totals(dynamics, cost, state, plans)
            order = totals.argsort()[: self.config.elites]
            elites = plans[order]
            if totals[order[0]] <= lowest:
                best, lowest = elites[0], totals[order[0]]
            mean, std = elites.mean(0), elites.std(0)
        self._keep(best)
        return best[0].clone()

    def _totals(
        self, dynamics: Dynamics, cost: Cost, state: Float[Tensor, " s"], plans: Tensor
    ) -> Float[Tensor, " n"]:
        """Return the cost of each plan; one that leaves the numbers is the dearest."""
        states = state.expand(len(plans), -1)
        total = states.new_zeros(len(plans))
        for step in range(self.config.horizon):
            actions = plans[:, step // self.config.hold]
            states = dynamics(states, actions)
            total = total + cost(states, actions)
        return total.nan_to_num(nan=float("inf"), posinf=float("inf"))

    def _keep(self, best: Float[Tensor, "h a"]) -> None:
        """Shift the plan by a step: by a block of held actions once it is used up."""
        self._age = (self._age + 1) % self.config.hold
        shift = 0 if self._age else 1
        self._plan = torch.cat([best[shift:], best[-1:].expand(shift, -1)])

    def _middle(self) -> Float[Tensor, "h a"]:
        return ((self.low + self.high) / 2).expand(self._blocks, -1)
