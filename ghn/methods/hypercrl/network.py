"""The network that predicts how an environment moves, and what one task makes of it.

From a state and an action it predicts the change of the state, in units of the task's own
transitions. With bounded variances it predicts a Gaussian: the bounds are learned with the task and
belong to it, so that later tasks cannot move them. Several members make an ensemble.

Source: Huang et al. 2021 (HyperCRL, arXiv 2009.11997) for the prediction of differences; Chua et
al. 2018 (arXiv 1805.12114, appendix A.1) for bounded variances and for ensembles.

Shape letters used in this file:
    n: transitions. s: numbers of a state. a: numbers of an action. m: members. o: outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "DynamicsNetwork",
    "TaskDynamics",
    "bounded",
    "first_bounds",
    "misfit",
    "scaled",
    "units_of",
]

LEAST = 1e-6  # standard deviation below which a number counts as constant
PULL = 0.01  # by which bounds of log-variances are drawn together, as published
BOUNDS = (0.5, -10.0)  # of the logarithm of a variance, to begin with


class DynamicsNetwork(nn.Module):
    """Perceptrons, one for each member of an ensemble.

    Args:
        inputs: Numbers of a state and an action.
        outputs: Numbers that each member predicts.
        hidden: Widths of the hidden layers.
        members: How many.
    """

    def __init__(self, inputs: int, outputs: int, hidden: tuple[int, ...], members: int) -> None:
        super().__init__()
        sizes = (inputs, *hidden, outputs)
        self.members = nn.ModuleList()
        for _ in range(members):
            layers: list[nn.Module] = []
            for size, following in itertools.pairwise(sizes):
                layers += [nn.Linear(size, following), nn.SiLU()]
            self.members.append(nn.Sequential(*layers[:-1]))

    def head_names(self) -> list[str]:
        """Return the names of the parameters of all members' last layers."""
        return [
            f"members.{place}.{len(member) - 1}.{name}"  # type: ignore[arg-type]
            for place, member in enumerate(self.members)
            for name in ("weight", "bias")
        ]

    def forward(self, inputs: Float[Tensor, "m n i"]) -> Float[Tensor, "m n o"]:
        """Return each member's prediction for its own inputs."""
        return torch.stack([member(x) for member, x in zip(self.members, inputs, strict=True)])


def units_of(
    inputs: Float[Tensor, "n i"], changes: Float[Tensor, "n s"]
) -> dict[str, Float[Tensor, " k"]]:
    """Return means and standard deviations of inputs and of changes, by name."""
    parts = {"input": inputs, "change": changes}
    found: dict[str, Tensor] = {}
    for name, values in parts.items():
        found[f"{name}_mean"] = values.mean(0)
        found[f"{name}_std"] = values.std(0, correction=0)
    return found


def scaled(
    values: Float[Tensor, "*n k"], units: Mapping[str, Tensor], name: str
) -> Float[Tensor, "*n k"]:
    """Return values in the units of a task; a number that is constant there becomes its excess."""
    std = units[f"{name}_std"]
    return (values - units[f"{name}_mean"]) / torch.where(std > LEAST, std, 1.0)


def first_bounds(states: int) -> Float[Tensor, "2 s"]:
    """Return the bounds that a task's log-variances have before it is learned, upper ones first."""
    return torch.tensor(BOUNDS)[:, None].repeat(1, states)


def bounded(raw: Float[Tensor, "*n s"], bounds: Float[Tensor, "2 s"]) -> Float[Tensor, "*n s"]:
    """Return log-variances between bounds, smoothly.

    Source:
        arXiv 1805.12114, appendix A.1.
    """
    upper, lower = bounds
    below = upper - F.softplus(upper - raw)
    return lower + F.softplus(below - lower)


def misfit(
    outputs: Float[Tensor, "m n o"],
    wanted: Float[Tensor, "m n s"],
    moves: Bool[Tensor, " s"],
    bounds: Float[Tensor, "2 s"] | None,
) -> Float[Tensor, ""]:
    """Return the mean squared error, or the Gaussian's negative log-likelihood, twice, less pi's.

    Args:
        outputs: Means, and after them raw log-variances, if there are bounds.
        wanted: What was to be predicted.
        moves: Which numbers count: those that are not constant.
        bounds: Of the log-variances, which are drawn together a little; None: there are none.

    Source:
        arXiv 1805.12114, appendix A.1.
    """
    states = wanted.shape[-1]
    error = (outputs[..., :states] - wanted)[..., moves].square()
    if bounds is None:
        return error.mean()
    logarithms = bounded(outputs[..., states:], bounds)[..., moves]
    likelihood = (error * (-logarithms).exp() + logarithms).mean()
    return likelihood + PULL * (bounds[0] - bounds[1])[moves].mean()


class TaskDynamics(nn.Module):
    """How one task moves: a plain module, in its own right, from states and actions to states.

    Units are folded into the first and the last layers, so that planning costs little more than
    the perceptrons. What never changed in the task's transitions is predicted to stay.

    Args:
        network: With the task's parameters; it is the module's own from now on.
        units: See `units_of`.
        bounds: Those of the log-variances; None if the network predicts none.
    """

    def __init__(
        self, network: DynamicsNetwork, units: Mapping[str, Tensor], bounds: Tensor | None
    ) -> None:
        super().__init__()
        self.scale: Tensor
        self.bounds: Tensor | None
        std = units["change_std"]
        self.states = len(std)
        self.register_buffer("scale", torch.where(std > LEAST, std, 0.0))
        self.register_buffer("bounds", bounds)
        self.network = network.requires_grad_(False).eval()
        for member in self.network.members:
            self._fold(member, units)

    @torch.no_grad()
    def _fold(self, member: Any, units: Mapping[str, Tensor]) -> None:
        """Let a member read states and actions as they are, and give changes as they are."""
        first, last, s = member[0], member[-1], self.states
        std = units["input_std"]
        first.weight.div_(torch.where(std > LEAST, std, 1.0))
        first.bias.sub_(first.weight @ units["input_mean"])
        last.weight[:s].mul_(self.scale[:, None])
        last.bias[:s].mul_(self.scale).add_(units["change_mean"])

    def forward(
        self, states: Float[Tensor, "n s"], actions: Float[Tensor, "n a"]
    ) -> Float[Tensor, "n s"]:
        """Return the mean of the states that are reached."""
        outputs = self._outputs(states, actions)
        mean = outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(0)
        return states + mean[:, : self.states]

    def spread(
        self, states: Float[Tensor, "n s"], actions: Float[Tensor, "n a"]
    ) -> Float[Tensor, "n s"]:
        """Return the standard deviation of the states that are reached.

        It is that of a mixture of the members: the spread of their means, and their own variances,
        if they predict any.
        """
        outputs = torch.stack(self._outputs(states, actions))
        variance = outputs[..., : self.states].var(0, correction=0)
        if self.bounds is not None:
            own = bounded(outputs[..., self.states :], self.bounds).exp().mean(0)
            variance = variance + self.scale.square() * own
        return variance.sqrt()

    def _outputs(
        self, states: Float[Tensor, "n s"], actions: Float[Tensor, "n a"]
    ) -> list[Float[Tensor, "n o"]]:
        inputs = torch.cat([states, actions], 1)
        return [member(inputs) for member in self.network.members]
