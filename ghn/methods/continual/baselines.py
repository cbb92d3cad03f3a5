"""What a hypernetwork is compared with: one network, or one a task, through the same loop.

Every network here has a head of its own for each task, a copy of the module's last layer, if that
is a linear layer or a convolution; else a warning says that there is none. What is before the head
is shared (fine-tuning, EWC, joint training) or is not (separate networks).

Sources: elastic weight consolidation, Kirkpatrick et al. 2017 (arXiv 1612.00796), with one penalty
for each earlier task.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ghn.engine.run import buffers_of, in_mode
from ghn.engine.select import Generate
from ghn.errors import ConfigError
from ghn.methods.continual.config import LoopConfig
from ghn.methods.continual.fisher import diagonal_fisher
from ghn.methods.continual.loop import TaskLearner
from ghn.methods.sequence import SHARED, TaskNetworks
from ghn.methods.sequence.learner import under
from ghn.rng import make_generator

__all__ = ["EWC", "EWCConfig", "FineTuning", "Joint", "Separate"]


class _Networks(TaskLearner):
    """Parameters of the network, by the group that they belong to: a task's name, or shared."""

    config: LoopConfig

    def __init__(
        self,
        model: nn.Module,
        config: LoopConfig | None = None,
        *,
        example_inputs: Any = None,
        generate: Generate = None,
    ) -> None:
        config = config or self.Config()
        super().__init__(model, config, example_inputs=example_inputs, generate=generate)
        start = dict(self.model.named_parameters())
        start = {name: start[name] for name in self.graph.specs}
        self._networks = TaskNetworks(start, self._names_of_a_task())
        self._statistics: dict[str, dict[str, Tensor]] = {SHARED: buffers_of(self.model)}

    @property
    def _groups(self) -> dict[str, dict[str, nn.Parameter]]:
        return self._networks.groups

    def _names_of_a_task(self) -> set[str]:
        """Return the names of the parameters that every task has for itself: the head's."""
        found = {name for name, spec in self.graph.specs.items() if spec.head}
        if not found:
            warnings.warn(
                f"{type(self.model).__name__} has no linear layer or convolution that emits its "
                "output: tasks have no head of their own, and share all parameters",
                stacklevel=3,
            )
        return found

    def _statistics_of(self, task: str) -> str:
        """Return whose buffers a task uses."""
        return SHARED

    def _begin(self, task: str) -> None:
        self._networks.add(task)
        key = self._statistics_of(task)
        self._statistics.setdefault(key, buffers_of(self.model))

    def _trained(self, task: str) -> list[nn.Parameter]:
        return list(self._networks.named(task).values())

    def _backward(
        self, task: str, inputs: Any, labels: Int64[Tensor, " b"], optimizer: torch.optim.Optimizer
    ) -> float:
        key = self._statistics_of(task)
        named: dict[str, Tensor] = dict(self._networks.named(task))
        logits, self._statistics[key] = self._run(named, inputs, self._statistics[key])
        loss = self._loss(task, logits, labels)
        (loss + self._penalty()).backward()
        return loss.item()

    def _penalty(self) -> Float[Tensor, ""] | float:
        return 0.0

    def parameters_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's parameters of the network by name, without gradients."""
        self.record(task)
        return self._networks.parameters_of(task)

    def buffers_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's buffers of the network by name."""
        self.record(task)
        return self._statistics[self._statistics_of(task)]

    def num_parameters(self) -> int:
        """Return the number of learned parameters, of all tasks together."""
        return self._networks.num_parameters()

    def _tensors(self) -> dict[str, Tensor]:
        found = self._networks.tensors()
        for place, buffers in enumerate(self._statistics.values()):
            found |= {f"buffers/{place}/{k}": v for k, v in buffers.items()}
        return found

    def _facts(self) -> dict[str, Any]:
        facts = {**super()._facts(), **self._networks.facts()}
        return {**facts, "statistics": list(self._statistics)}

    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self._networks.set(tensors, facts)
        self._statistics = {
            name: under(f"buffers/{i}/", tensors) for i, name in enumerate(facts["statistics"])
        }


class FineTuning(_Networks):
    """One network, trained on one task after another: what is before the head is overwritten."""


class Separate(_Networks):
    """A network for each task, from the same start: no forgetting, no sharing."""

    def _names_of_a_task(self) -> set[str]:
        return set(self.graph.specs)

    def _statistics_of(self, task: str) -> str:
        return task


class Joint(_Networks):
    """One network, trained on all tasks at once: it keeps the data, which the others must not.

    With each new task all are trained for as many steps as there are tasks times `steps`.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._loaders: dict[str, Iterable[Any]] = {}

    def remember(self, task: str, loader: Iterable[Any]) -> None:
        """Give a task's data back to a learner that was read from a file."""
        self._loaders[self.record(task).name] = loader

    def _steps(self, task: str, loader: Iterable[Any]) -> int:
        return self.config.steps * len(self.tasks)

    def _trained(self, task: str) -> list[nn.Parameter]:
        return [p for group in self._groups.values() for p in group.values()]

    def _batches(self, task: str, loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Take turns between tasks; the batch's task stands beside its labels."""
        self._loaders[task] = loader
        missing = [name for name in self.tasks if name not in self._loaders]
        if missing:
            raise ConfigError(
                f"joint training needs the data of {missing} again; call remember() first"
            )
        own = {name: self._loaders[name] for name in self.tasks}
        streams = {name: super(Joint, self)._batches(name, data) for name, data in own.items()}
        while True:
            for name, stream in streams.items():
                inputs, labels = next(stream)
                yield inputs, (name, labels)

    def _backward(
        self, task: str, inputs: Any, labels: Any, optimizer: torch.optim.Optimizer
    ) -> float:
        name, own = labels
        return super()._backward(name, inputs, own, optimizer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EWCConfig(LoopConfig):
    """Settings of `EWC`.

    Attributes:
        strength: Weight of the penalty beside the loss, often called lambda.
    """

    strength: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength < math.inf:
            raise ConfigError(f"strength must be at least 0 and finite, got {self.strength}")


class EWC(_Networks):
    """Fine-tuning in which shared parameters are held back by how much earlier tasks need them.

    The sum of the earlier tasks' penalties, F_t (p - p_t)^2, is F (p - c)^2 up to a constant, with
    F the sum of F_t and c the mean of p_t weighted by F_t: memory does not grow with tasks.

    Source:
        Equation 3 of arXiv 1612.00796, with a penalty for each earlier task.
    """

    Config = EWCConfig
    config: EWCConfig

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._fisher: dict[str, Tensor] = {}
        self._centre: dict[str, Tensor] = {}

    def _penalty(self) -> Float[Tensor, ""] | float:
        shared = self._groups[SHARED]
        total: Float[Tensor, ""] | float = 0.0
        for name, fisher in self._fisher.items():
            total = total + (fisher * (shared[name] - self._centre[name]).square()).sum()
        return 0.5 * self.config.strength * total

    def _finish(self, task: str, batches: Callable[[], Iterator[Any]]) -> None:
        head = {name: p.detach() for name, p in self._groups[task].items()}
        shared = {name: p.detach().clone() for name, p in self._groups[SHARED].items()}
        classes = self.tasks[task].classes

        def logits(parameters: dict[str, Tensor], inputs: Any) -> Float[Tensor, "b k"]:
            with in_mode(self.model, training=False):
                found = self._run({**head, **parameters}, inputs, self._statistics[SHARED])[0]
            return found if classes is None else found[:, list(classes)]

        generator = make_generator(self.config.seed, "fisher", task)
        found = diagonal_fisher(logits, shared, batches(), generator)
        for name, fisher in found.items():
            old = self._fisher.get(name, torch.zeros_like(fisher))
            total = (old + fisher).clamp_min(1e-30)
            centre = self._centre.get(name, shared[name])
            self._centre[name] = (old * centre + fisher * shared[name]) / total
            self._fisher[name] = old + fisher

    def _tensors(self) -> dict[str, Tensor]:
        found = super()._tensors()
        found |= {f"fisher/{k}": v for k, v in self._fisher.items()}
        return found | {f"centre/{k}": v for k, v in self._centre.items()}

    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        super()._set(tensors, facts)
        self._fisher, self._centre = under("fisher/", tensors), under("centre/", tensors)
