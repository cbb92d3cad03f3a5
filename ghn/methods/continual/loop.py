"""What all learners of classification tasks have in common.

A learner keeps no data of a task. Transactions and files are those of `ghn.methods.sequence`.

Shape letters used in this file:
    b: inputs. k: classes.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ghn.engine.guards import check_model
from ghn.engine.run import in_mode, run
from ghn.engine.select import Generate, keep_reasons
from ghn.engine.support import Support
from ghn.errors import CheckpointError, ConfigError, InputError
from ghn.graphs import ParamGraph, trace
from ghn.graphs.trace import parameter_names
from ghn.methods import sequence
from ghn.methods.continual.batches import one_pass, task_loss
from ghn.methods.sequence import LoopConfig
from ghn.rng import derive_seed, preserve_global_state

__all__ = ["TaskLearner", "TaskRecord"]

L = TypeVar("L", bound="TaskLearner")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecord(sequence.TaskRecord):
    """What is known of a task that was learned: what every learner keeps, and its classes.

    Attributes:
        classes: The outputs of the network that are its classes, in order; None: all.
    """

    classes: tuple[int, ...] | None = None


class TaskLearner(sequence.SequenceLearner[TaskRecord]):
    """Learns to classify, task by task; subclasses say what is shared between tasks, and how.

    Args:
        model: Any module that emits logits `[b, k]`. It is never changed.
        config: Steps, learning rate, seed.
        example_inputs: As for `ghn.trace`; inferred if None.
        generate: Which parameters are learned for tasks: a glob, several, or a function of the
            name; all by default. The rest stays the module's own.
    """

    Record = TaskRecord

    def __init__(
        self,
        model: nn.Module,
        config: LoopConfig,
        *,
        example_inputs: Any = None,
        generate: Generate = None,
    ) -> None:
        super().__init__(config)
        self.model = check_model(model)
        self.graph = _generated(self.model, example_inputs, generate)
        self.device = next(self.model.parameters()).device

    def learn(
        self,
        task: str,
        loader: Iterable[Any],
        *,
        classes: Sequence[int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TaskRecord:
        """Learn a task; on any error the learner is as it was.

        Args:
            task: A new name.
            loader: Batches (inputs, labels), read as often as the steps need. Inputs are a tensor,
                a tuple or a dict of the module's arguments; labels are integers `[b]`.
            classes: The outputs of the network that are this task's classes, for networks whose
                tasks share one head; labels are then among these numbers. All outputs by default.
            progress: Called with steps done and steps in all.

        Raises:
            ConfigError: If the name is taken, or classes are no outputs.
            InputError: If there is no batch, data are not finite, a label is no class of the task,
                or the module fails on the inputs.
        """
        record = TaskRecord(name=task, classes=None if classes is None else tuple(classes))
        tell = progress or (lambda done, total: None)

        def work() -> list[float]:
            with in_mode(self.model, training=True), preserve_global_state():
                torch.default_generator.manual_seed(derive_seed(self.config.seed, "learn", task))
                return self._learn(task, loader, tell)

        return self._learn_new(record, work)

    def _learn(
        self, task: str, loader: Iterable[Any], progress: Callable[[int, int], None]
    ) -> list[float]:
        self._begin(task)
        optimizer = torch.optim.Adam(self._trained(task), lr=self.config.rate, fused=True)
        losses = []
        steps = self._steps(task, loader)
        for step, batch in enumerate(itertools.islice(self._batches(task, loader), steps)):
            optimizer.zero_grad()
            losses.append(self._backward(task, *batch, optimizer))
            optimizer.step()
            progress(step + 1, steps)
        self._finish(task, lambda: self._batches(task, loader))
        return losses

    def _steps(self, task: str, loader: Iterable[Any]) -> int:
        """Return how many steps the task gets."""
        return self.config.steps

    @abc.abstractmethod
    def _begin(self, task: str) -> None:
        """Make room for a task."""

    @abc.abstractmethod
    def _trained(self, task: str) -> list[nn.Parameter]:
        """Return what the optimiser of a task changes."""

    @abc.abstractmethod
    def _backward(
        self, task: str, inputs: Any, labels: Int64[Tensor, " b"], optimizer: torch.optim.Optimizer
    ) -> float:
        """Add the gradients of one batch; return its loss."""

    def _finish(self, task: str, batches: Callable[[], Iterator[Any]]) -> None:
        """Do what is to be done once a task is learned."""

    @abc.abstractmethod
    def parameters_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's parameters of the network by name, without gradients."""

    @abc.abstractmethod
    def buffers_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's buffers of the network by name."""

    @torch.no_grad()
    def predict(self, inputs: Any, task: str) -> Float[Tensor, "b k"]:
        """Return logits of a task's classes, in evaluation mode.

        Raises:
            UnknownNameError: If the task was never learned.
        """
        record = self.record(task)
        with in_mode(self.model, training=False):
            logits = self._run(
                self.parameters_of(task), self._moved(inputs), self.buffers_of(task)
            )[0]
        return logits if record.classes is None else logits[:, list(record.classes)]

    def evaluate(self, loader: Iterable[Any], task: str) -> float:
        """Return the share of a loader's inputs that are classified correctly, in [0, 1].

        Raises:
            UnknownNameError: If the task was never learned.
            InputError: If there is no batch, or a label is no class of the task.
        """
        right = total = 0
        for inputs, labels in self._pass(task, loader):
            right += int((self.predict(inputs, task).argmax(1) == labels).sum())
            total += len(labels)
        return right / total

    def export(self, task: str) -> nn.Module:
        """Return a copy of the module with the parameters and buffers of a task, in its own right.

        Raises:
            UnknownNameError: If the task was never learned.
        """
        self.record(task)
        model = copy.deepcopy(self.model)
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        with torch.no_grad():
            for name, value in self.parameters_of(task).items():
                parameters[name].copy_(value)
            for name, value in self.buffers_of(task).items():
                buffers[name].copy_(value)
        return model

    def _header(self) -> dict[str, Any]:
        return {"shapes": {name: list(spec.shape) for name, spec in self.graph.specs.items()}}

    @classmethod
    def load(
        cls: type[L], path: str | Path, model: nn.Module, *, example_inputs: Any = None
    ) -> tuple[L, dict[str, Any]]:
        """Read a learner that `save` wrote.

        Args:
            path: The file.
            model: A module like the one it learned for; what is not generated is taken from it.
            example_inputs: As for the constructor.

        Returns:
            The learner, and the notes that were saved with it.

        Raises:
            CheckpointError: If the file is damaged, foreign, or belongs to another network.
        """
        tensors, header = cls._read(path)
        names = set(header["shapes"])
        learner = cls(
            model,
            config=cls.Config.from_dict(header["config"]),
            example_inputs=example_inputs,
            generate=lambda name: name in names,
        )
        shapes = {name: list(spec.shape) for name, spec in learner.graph.specs.items()}
        if shapes != header["shapes"]:
            raise CheckpointError(f"{path} belongs to another network; its parameters differ")
        learner.restore(tensors, header["facts"])
        return learner, header["notes"]

    def _run(
        self, parameters: dict[str, Tensor], inputs: Any, buffers: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "b k"], dict[str, Tensor]]:
        try:
            return run(self.model, parameters, inputs, buffers=buffers)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"the network failed on a batch: {error}. Inputs must be what its forward takes"
            ) from error

    def _loss(
        self, task: str, logits: Float[Tensor, "b k"], labels: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        return task_loss(task, logits, labels, self.tasks[task].classes)

    def _batches(self, task: str, loader: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
        """Go through a loader again and again."""
        while True:
            yield from self._pass(task, loader)

    def _pass(self, task: str, loader: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
        """Go through a loader once; labels are numbered by the task's classes."""
        for inputs, labels in one_pass(task, loader, self.record(task).classes):
            yield self._moved(inputs), labels.to(self.device)

    def _moved(self, inputs: Any) -> Any:
        return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(self.device), inputs)


def _generated(model: nn.Module, example_inputs: Any, generate: Generate) -> ParamGraph:
    """Return the graph of the parameters that are learned for tasks."""
    graph = trace(model, example_inputs)
    parameters, _ = parameter_names(model)
    reasons = keep_reasons(graph, parameters, Support(), generate, "predict")
    names = {name for name, reason in reasons.items() if reason is None}
    names = {name for name in names if graph.specs[name].numel}
    if not names:
        raise ConfigError(
            f"generate={generate!r} leaves no parameter of {type(model).__name__} to learn; its "
            f"parameters are {', '.join(list(parameters)[:5])}"
        )
    return graph.only(names)
