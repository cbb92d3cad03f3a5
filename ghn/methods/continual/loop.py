"""What all learners of tasks have in common: they learn one after another, all or nothing.

A learner keeps no data of a task. If learning fails, for whatever reason, the learner is as it was
before the task. What it is can be saved to one file and read again; a run that goes on from a file
ends with the bits of a run that was never interrupted, because everything random depends on the
seed and the task's name alone.

Shape letters used in this file:
    b: inputs. k: classes.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.engine.guards import check_model
from ghn.engine.run import in_mode, run
from ghn.engine.select import Generate, keep_reasons
from ghn.engine.support import Support
from ghn.errors import CheckpointError, ConfigError, InputError
from ghn.graphs import ParamGraph, trace
from ghn.graphs.trace import parameter_names
from ghn.io import read_tensors, write_tensors
from ghn.methods.continual.batches import checked_batch, renumbered
from ghn.methods.continual.config import LoopConfig
from ghn.registry import unknown_name
from ghn.rng import derive_seed, preserve_global_state

__all__ = ["TaskLearner", "TaskRecord"]

L = TypeVar("L", bound="TaskLearner")
FORMAT = 1
KIND = "continual"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What is known of a task that was learned.

    Attributes:
        name: Its name.
        classes: The outputs of the network that are its classes, in order; None: all.
        loss: Mean loss of the last tenth of the steps.
        seconds: Time that it took.
    """

    name: str
    classes: tuple[int, ...] | None = None
    loss: float = float("nan")
    seconds: float = 0.0


class TaskLearner(abc.ABC):
    """Learns tasks in sequence; subclasses say what is shared between tasks, and how.

    Args:
        model: Any module that emits logits `[b, k]`. It is never changed.
        config: Steps, learning rate, seed.
        example_inputs: As for `ghn.trace`; inferred if None.
        generate: Which parameters are learned for tasks: a glob, several, or a function of the
            name; all by default. The rest stays the module's own.

    Attributes:
        tasks: Records of the tasks learned so far, by name.
    """

    Config: type[LoopConfig] = LoopConfig

    def __init__(
        self,
        model: nn.Module,
        config: LoopConfig,
        *,
        example_inputs: Any = None,
        generate: Generate = None,
    ) -> None:
        self.model = check_model(model)
        self.config = config
        self.graph = _generated(self.model, example_inputs, generate)
        self.device = next(self.model.parameters()).device
        self.tasks: dict[str, TaskRecord] = {}

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
        if task in self.tasks:
            raise ConfigError(f"task {task!r} is learned already; choose another name")
        before = self.state()
        start = time.perf_counter()
        try:
            with in_mode(self.model, training=True), preserve_global_state():
                torch.default_generator.manual_seed(derive_seed(self.config.seed, "learn", task))
                self.tasks[task] = TaskRecord(
                    name=task, classes=None if classes is None else tuple(classes)
                )
                losses = self._learn(task, loader, progress or (lambda done, total: None))
            last = losses[-max(1, len(losses) // 10) :]
            self.tasks[task] = dataclasses.replace(
                self.tasks[task],
                loss=sum(last) / len(last),
                seconds=time.perf_counter() - start,
            )
        except BaseException:
            self.restore(*before)
            raise
        return self.tasks[task]

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

    def _finish(self, task: str, batches: Callable[[], Iterator[Any]]) -> None:  # noqa: B027
        """Do what is to be done once a task is learned."""

    @abc.abstractmethod
    def parameters_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's parameters of the network by name, without gradients."""

    @abc.abstractmethod
    def buffers_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's buffers of the network by name."""

    @abc.abstractmethod
    def num_parameters(self) -> int:
        """Return how many learned numbers the learner holds, for all tasks together."""

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

    def record(self, task: str) -> TaskRecord:
        """Return what is known of a task.

        Raises:
            UnknownNameError: If it was never learned.
        """
        if task not in self.tasks:
            raise unknown_name("task", task, list(self.tasks))
        return self.tasks[task]

    @abc.abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the learner's state by name."""

    def _facts(self) -> dict[str, Any]:
        """Return the rest of the learner's state as JSON types."""
        return {"tasks": [dataclasses.asdict(r) for r in self.tasks.values()]}

    @abc.abstractmethod
    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over a state; the tensors are the learner's from now on."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a copy of the whole state: tensors by name, and JSON types."""
        return {k: v.detach().clone() for k, v in self._tensors().items()}, self._facts()

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over a state that `state` returned."""
        self.tasks = {
            r["name"]: TaskRecord(**{**r, "classes": r["classes"] and tuple(r["classes"])})
            for r in facts["tasks"]
        }
        self._set({k: v.clone().to(self.device) for k, v in tensors.items()}, dict(facts))

    def save(self, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write the learner to one file, all of it or nothing; the module itself is not in it.

        Args:
            path: A `.safetensors` file.
            notes: Plain values to keep with it; see `load`.
        """
        tensors, facts = self.state()
        header = {
            "format": FORMAT,
            "learner": type(self).__name__,
            "config": self.config.to_dict(),
            "shapes": {name: list(spec.shape) for name, spec in self.graph.specs.items()},
            "facts": facts,
            "notes": dict(notes or {}),
        }
        write_tensors(path, tensors, KIND, header)

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
        tensors, header = read_tensors(path, KIND)
        if header.get("format") != FORMAT or header.get("learner") != cls.__name__:
            raise CheckpointError(
                f"{path} holds a {header.get('learner')} of format {header.get('format')}, not a "
                f"{cls.__name__} of format {FORMAT}"
            )
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
        """Return the cross-entropy over the task's classes; labels count these."""
        classes = self.tasks[task].classes
        count = logits.shape[1]
        if classes is not None and (len(set(classes)) < len(classes) or max(classes) >= count):
            raise ConfigError(
                f"classes={classes} of task {task!r} must be different outputs of a network with "
                f"{count}"
            )
        if classes is not None:
            logits = logits[:, list(classes)]
        if int(labels.max()) >= logits.shape[1] or int(labels.min()) < 0:
            raise InputError(
                f"task {task!r} has a label {int(labels.max())}, but the network has "
                f"{logits.shape[1]} outputs: classes are numbered from 0. A task with more classes "
                "needs a network with more outputs"
            )
        loss = F.cross_entropy(logits, labels)
        if not loss.isfinite():
            raise InputError(f"the loss of task {task!r} is not finite; try a smaller rate")
        return loss

    def _batches(self, task: str, loader: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
        """Go through a loader again and again."""
        while True:
            yield from self._pass(task, loader)

    def _pass(self, task: str, loader: Iterable[Any]) -> Iterator[tuple[Any, Tensor]]:
        """Go through a loader once; labels are numbered by the task's classes."""
        empty = True
        classes = self.record(task).classes
        for batch in loader:
            inputs, labels = checked_batch(task, batch)
            if len(labels) == 0:
                continue
            empty = False
            yield self._moved(inputs), renumbered(task, labels, classes).to(self.device)
        if empty:
            raise InputError(
                f"the loader of task {task!r} gave no batch; it must be readable more than once, "
                "such as a DataLoader or a list"
            )

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
