"""What all learners of classification tasks have in common.

A learner keeps no data of a task. Transactions and files are those of `ghn.methods.sequence`.

Shape letters used in this file:
    b: inputs. k: classes. n: labels, as many as inputs if data are sound.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ghn.engine.guards import check_model
from ghn.engine.run import in_mode, run
from ghn.engine.select import Generate
from ghn.errors import CheckpointError, ConfigError, InputError, UnsupportedModelError
from ghn.methods import sequence
from ghn.methods.continual.batches import (
    advice_on,
    check_labels,
    checked_classes,
    one_pass,
    plain,
    task_loss,
)
from ghn.methods.continual.config import LoopConfig
from ghn.methods.continual.module import check_fits, copy_with, generated, shared
from ghn.methods.sequence.learner import under
from ghn.rng import derive_seed, preserve_global_state

__all__ = ["TaskLearner", "TaskRecord", "explained"]

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
        config: Steps, learning rate and its fall, seed.
        example_inputs: As for `ghn.trace`; inferred if None.
        generate: Which parameters are learned for tasks: a glob, several, or a function of the
            name; all by default. The rest stays the module's own.

    Raises:
        UnsupportedModelError: If parameters of the module have no values.
    """

    Config = LoopConfig
    Record = TaskRecord
    config: LoopConfig

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
        if any(p.is_meta for p in self.model.parameters()):
            raise UnsupportedModelError(
                f"{type(model).__name__} has parameters on the meta device, without values; give "
                "them some first: model.to_empty(device='cpu'), then its initialization or weights"
            )
        self.graph = generated(self.model, example_inputs, generate)
        self.device = next(self.model.parameters()).device

    def learn(
        self,
        task: str,
        loader: Iterable[Any],
        *,
        classes: Iterable[Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> TaskRecord:
        """Learn a task; on any error the learner is as it was.

        Args:
            task: A new name.
            loader: Batches (inputs, labels), read as often as the steps need. Inputs are a tensor,
                a tuple or list of the module's arguments, or a mapping of them by name; labels are
                integers `[b]`.
            classes: The outputs of the network that are this task's classes, for networks whose
                tasks share one head, in a list, an array or a tensor; labels are then among these
                numbers. All outputs by default.
            progress: Called with steps done and steps in all.

        Raises:
            ConfigError: If the name is taken or no text, or classes are no outputs.
            InputError: If there is no batch, data are not finite, a label is no class of the task,
                the module fails on the inputs or returns no logits, or weights become infinite.
        """
        record = TaskRecord(name=task, classes=checked_classes(task, classes))
        tell = progress or (lambda done, total: None)

        def work() -> list[float]:
            # Datasets augment by any of the global generators.
            seed = derive_seed(self.config.seed, "learn", task)
            with in_mode(self.model, training=True), preserve_global_state(seed):
                return self._learn(task, loader, tell)

        return self._learn_new(record, work)

    def _learn(
        self, task: str, loader: Iterable[Any], progress: Callable[[int, int], None]
    ) -> list[float]:
        self._begin(task)
        optimizer = torch.optim.Adam(self._trained(task), lr=self.config.rate, fused=True)
        losses = []
        steps = self._steps(task, loader)
        schedule = LambdaLR(optimizer, lambda step: self.config.rate_at(step, steps))
        for step, batch in enumerate(itertools.islice(self._batches(task, loader), steps)):
            optimizer.zero_grad()
            losses.append(self._backward(task, *batch, optimizer))
            optimizer.step()
            schedule.step()
            progress(step + 1, steps)
        self._check_finite(task)
        self._finish(task, lambda: self._batches(task, loader))
        return losses

    def _check_finite(self, task: str) -> None:
        """Refuse a network that the last step has broken: its loss was not looked at."""
        learned = [*self._trained(task), *self.parameters_of(task).values()]
        if not all(bool(tensor.isfinite().all()) for tensor in learned):
            raise InputError(
                f"after the last step of task {task!r} its weights are not finite; try a smaller "
                f"rate than {self.config.rate:g}"
            )

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

    def predict(self, inputs: Any, task: str) -> Float[Tensor, "b k"]:
        """Return logits of a task's classes, in evaluation mode.

        Raises:
            UnknownNameError: If the task was never learned.
        """
        return self._predictor(task)(inputs)

    def _predictor(self, task: str) -> Callable[[Any], Float[Tensor, "b k"]]:
        """Return `predict` for one task, whose parameters are emitted once for all calls."""
        record = self.record(task)
        parameters, buffers = self.parameters_of(task), self.buffers_of(task)

        @torch.no_grad()
        def predict(inputs: Any) -> Float[Tensor, "b k"]:
            with in_mode(self.model, training=False):
                logits = self._run(parameters, self._moved(inputs), buffers)[0]
            return logits if record.classes is None else logits[:, list(record.classes)]

        return predict

    def evaluate(self, loader: Iterable[Any], task: str) -> float:
        """Return the share of a loader's inputs that are classified correctly, in [0, 1].

        Raises:
            UnknownNameError: If the task was never learned.
            InputError: If there is no batch, or a label is no class of the task.
        """
        predict = self._predictor(task)
        right = total = 0
        for inputs, labels in self._pass(task, loader):
            logits = predict(inputs)
            check_labels(task, logits, labels)
            right += int((logits.argmax(1) == labels).sum())
            total += len(labels)
        return right / total

    def export(self, task: str) -> nn.Module:
        """Return a copy of the module with the parameters and buffers of a task, in its own right.

        It is in evaluation mode, as `predict` is; call `train()` on it to train it further.

        Raises:
            UnknownNameError: If the task was never learned.
        """
        self.record(task)
        return copy_with(self.model, {**self.parameters_of(task), **self.buffers_of(task)}).eval()

    def _header(self) -> dict[str, Any]:
        return {"shapes": {name: list(spec.shape) for name, spec in self.graph.specs.items()}}

    def _file_tensors(self) -> dict[str, Tensor]:
        """Return the state, and what tasks take from the module, if anything is not generated."""
        found = super()._file_tensors()
        rest = shared(self.model, self.graph)
        return found | {f"module/{name}": t.detach().clone() for name, t in rest.items()}

    @classmethod
    @torch.inference_mode(False)  # tensors that are made in it can never be trained
    def load(
        cls: type[L], path: str | Path, model: nn.Module, *, example_inputs: Any = None
    ) -> tuple[L, dict[str, Any]]:
        """Read a learner that `save` wrote; it predicts what the saved one did.

        Args:
            path: The file.
            model: A module like the one it learned for. It is not changed: what is not generated
                is in the file, and goes into a copy. If everything is generated, the file holds
                nothing of the module, and what further tasks begin with is this one's: buffers,
                and for networks without a hypernetwork also parameters.
            example_inputs: As for the constructor.

        Returns:
            The learner, and the notes that were saved with it.

        Raises:
            CheckpointError: If the file is damaged, foreign, or belongs to another network.
        """
        tensors, header = cls._read(path)
        names, rest = set(header["shapes"]), under("module/", tensors)
        model = check_model(model)
        check_fits(path, model, header["shapes"], rest)
        try:
            learner = cls(
                copy_with(model, rest) if rest else model,
                config=cls.Config.from_dict(header["config"]),
                example_inputs=example_inputs,
                generate=lambda name: name in names,
            )
            learner.restore(tensors, header["facts"])
        except ConfigError as error:
            raise CheckpointError(
                f"{path} does not fit {type(model).__name__} or this version of ghn: {error}"
            ) from error
        return learner, header["notes"]

    def _run(
        self, parameters: dict[str, Tensor], inputs: Any, buffers: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "b k"], dict[str, Tensor]]:
        # What is not generated gets no gradients: neither work nor marks on the module.
        own = {n: p.detach() for n, p in self.model.named_parameters() if n not in parameters}
        with explained():
            logits, after = run(self.model, {**own, **parameters}, inputs, buffers=buffers)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            shape = list(logits.shape) if isinstance(logits, Tensor) else ""
            raise InputError(
                f"the network must return logits of shape [b, k], got {type(logits).__name__} "
                f"{shape}; wrap it in a module whose forward returns them alone"
            )
        return logits, after

    def _loss(
        self, task: str, logits: Float[Tensor, "b k"], labels: Int64[Tensor, " n"]
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
        inputs = plain(inputs)
        return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to(self.device), inputs)


@contextmanager
def explained() -> Iterator[None]:
    """Turn whatever a network's forward pass raises into an error about its inputs."""
    try:
        yield
    except Exception as error:
        said = str(error) or type(error).__name__
        raise InputError(f"the network failed on a batch: {said}. {advice_on(error)}") from error
