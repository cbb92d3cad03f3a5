"""Networks without a hypernetwork: parameters that tasks share, and parameters of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from ghn.methods.sequence.learner import under

__all__ = ["SHARED", "TaskNetworks"]

SHARED = ""


class TaskNetworks:
    """Parameters of a network by the group that they belong to: a task's name, or `SHARED`.

    Args:
        start: What a network's parameters begin with, by name.
        own: Names of those that every task has for itself: none, a head's, or all.
    """

    def __init__(self, start: Mapping[str, Tensor], own: Collection[str]) -> None:
        self.start = {name: value.detach().clone() for name, value in start.items()}
        self.own = set(own)
        self.groups: dict[str, dict[str, nn.Parameter]] = {}
        self._add(SHARED, set(start) - self.own)

    def add(self, task: str) -> None:
        """Give a task its own parameters, each from the common start."""
        self._add(task, self.own)

    def _add(self, group: str, names: Iterable[str]) -> None:
        chosen = [name for name in self.start if name in names]
        self.groups[group] = {n: nn.Parameter(self.start[n].clone()) for n in chosen}

    def named(self, task: str) -> dict[str, nn.Parameter]:
        """Return the parameters of a task's network by name, as they are trained."""
        return {**self.groups[SHARED], **self.groups[task]}

    def parameters_of(self, task: str) -> dict[str, Tensor]:
        """Return the parameters of a task's network by name, without gradients."""
        return {name: p.detach() for name, p in self.named(task).items()}

    def num_parameters(self) -> int:
        """Return the number of parameters, of all tasks together."""
        return sum(p.numel() for group in self.groups.values() for p in group.values())

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by name."""
        return {
            f"parameters/{place}/{name}": p
            for place, group in enumerate(self.groups.values())
            for name, p in group.items()
        }

    def facts(self) -> dict[str, Any]:
        """Return the rest of the state as JSON types."""
        return {"groups": list(self.groups)}

    def set(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `facts` returned."""
        self.groups = {
            name: {k: nn.Parameter(v) for k, v in under(f"parameters/{i}/", tensors).items()}
            for i, name in enumerate(facts["groups"])
        }
