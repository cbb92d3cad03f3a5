"""What a hypernetwork is compared with: plain dynamics networks, through the same loop.

A network for each task; one network that is trained on; one network that is trained on the data of
all tasks, without being told which is which; and one network with a head for each task that keeps
a few transitions of every task and goes on training on them.

Source: the baselines of HyperCRL (arXiv 2009.11997); its fine-tuned network has a head for each
task, as `FineTuningHeads` has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ghn.methods.hypercrl.config import CoresetConfig, DynamicsConfig
from ghn.methods.hypercrl.environments import Environment, Spaces
from ghn.methods.hypercrl.loop import DynamicsLearner
from ghn.methods.hypercrl.memory import Transitions
from ghn.methods.sequence import SHARED, TaskNetworks
from ghn.methods.sequence.learner import under

__all__ = ["Coreset", "FineTuning", "FineTuningHeads", "Joint", "Separate"]

Batch = list[tuple[str, Transitions]]


class _Networks(DynamicsLearner):
    """Parameters of the network, shared by tasks or a task's own."""

    def __init__(self, env: Environment | Spaces, config: DynamicsConfig | None = None) -> None:
        super().__init__(env, config or self.Config())
        self._networks = TaskNetworks(dict(self.network.named_parameters()), self._own())

    def _own(self) -> set[str]:
        """Return the names of the parameters that every task has for itself."""
        return set()

    def _head(self) -> set[str]:
        return set(self.network.head_names())

    def _begin(self, task: str) -> None:
        super()._begin(task)
        self._networks.add(task)

    def _trained(self, task: str) -> list[nn.Parameter]:
        return list(self._networks.named(task).values())

    def _backward(self, task: str, batch: Batch, optimizer: torch.optim.Optimizer) -> float:
        total = 0.0
        for name, data in batch:
            named: dict[str, Tensor] = dict(self._networks.named(name))
            loss = self._loss(name, named, data) / len(batch)
            loss.backward()
            total += loss.item()
        return total

    def parameters_of(self, task: str) -> dict[str, Tensor]:
        """Return the parameters of a task's network by name, without gradients."""
        self.record(task)
        return self._networks.parameters_of(task)

    def num_parameters(self) -> int:
        """Return the number of parameters, of all tasks together."""
        return self._networks.num_parameters()

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), **self._networks.tensors()}

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), **self._networks.facts()}

    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        super()._set(tensors, facts)
        self._networks.set(tensors, facts)


class FineTuning(_Networks):
    """One network, trained on one task after another."""


class FineTuningHeads(_Networks):
    """One network with a last layer for each task; what is before it is trained on."""

    def _own(self) -> set[str]:
        return self._head()


class Separate(_Networks):
    """A network for each task: no forgetting, no sharing."""

    def _own(self) -> set[str]:
        return set(self.graph.specs)


class Coreset(_Networks):
    """One network with a last layer for each task, and transitions of all tasks to go on with.

    Each batch holds as many transitions of one earlier task, each in its turn, as of the new one.
    """

    Config = CoresetConfig
    config: CoresetConfig

    def __init__(self, env: Environment | Spaces, config: CoresetConfig | None = None) -> None:
        super().__init__(env, config)
        self._kept: dict[str, Transitions] = {}

    def _own(self) -> set[str]:
        return self._head()

    def _keeps(self) -> int:
        """Return how many transitions of a task are kept."""
        return self.config.kept

    def _trained(self, task: str) -> list[nn.Parameter]:
        groups = [self._networks.groups[name] for name in (SHARED, *self.tasks)]
        return [parameter for group in groups for parameter in group.values()]

    def _batches(self, task: str, data: Transitions, generator: torch.Generator) -> Iterator[Batch]:
        count = self.config.batch * self.config.members
        names = list(self._kept)
        for number, own in enumerate(super()._batches(task, data, generator)):
            old = names[number % len(names)] if names else None
            yield own if old is None else [*own, (old, self._kept[old].batch(count, generator))]

    def _finish(self, task: str, data: Transitions) -> None:
        self._kept[task] = data.some(self._keeps(), self._generator("kept", task))

    def _tensors(self) -> dict[str, Tensor]:
        tensors = super()._tensors()
        for place, kept in enumerate(self._kept.values()):
            for name in ("states", "actions", "reached"):
                tensors[f"kept/{place}/{name}"] = getattr(kept, name)
        return tensors

    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        super()._set(tensors, facts)
        self._kept = {
            name: Transitions(**own)
            for place, name in enumerate(self.tasks)
            if (own := under(f"kept/{place}/", tensors))
        }


class Joint(Coreset):
    """One network, trained on all transitions of all tasks, which are not told from each other.

    With two or more tasks half of each batch is the new one's, half an earlier one's.
    """

    def _own(self) -> set[str]:
        return set()

    def _keeps(self) -> int:
        return self.config.capacity
