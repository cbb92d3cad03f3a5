"""Learners of tasks: one task after another, all or nothing, in one file.

If learning fails, for whatever reason, the learner is as it was before the task. What it is can be
saved to one file and read again; a run that goes on from a file ends with the bits of a run that
was never interrupted, if everything random depends on the seed and the task's name alone.
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ghn.config import Config, plain_values
from ghn.errors import CheckpointError, ConfigError
from ghn.io import read_tensors, write_tensors
from ghn.methods.sequence.config import LoopConfig
from ghn.registry import unknown_name

__all__ = ["SequenceLearner", "TaskRecord", "under"]

FORMAT = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecord(Config):
    """What is known of a task that was learned.

    Attributes:
        name: Its name.
        loss: Mean loss of the last tenth of the steps.
        seconds: Time that it took.
    """

    name: str
    loss: float = float("nan")
    seconds: float = 0.0


R = TypeVar("R", bound=TaskRecord)


class SequenceLearner(abc.ABC, Generic[R]):
    """Learns tasks in sequence; subclasses say of what kind, and what is shared between tasks.

    Args:
        config: Steps, learning rate, seed.

    Attributes:
        tasks: Records of the tasks learned so far, by name.
        device: Where the learner's tensors are.

    Raises:
        ConfigError: If the settings are those of another learner.
    """

    Config: type[LoopConfig] = LoopConfig
    Record: ClassVar[type[TaskRecord]] = TaskRecord

    def __init__(self, config: LoopConfig) -> None:
        if not isinstance(config, self.Config):
            raise ConfigError(
                f"{type(self).__name__} needs settings of {self.Config.__name__}, got {config!r}"
            )
        self.config = config
        self.device = torch.device("cpu")
        self.tasks: dict[str, R] = {}

    @torch.inference_mode(False)  # nothing can be learned in it, nor of tensors made in it
    def _learn_new(self, record: R, work: Callable[[], list[float]]) -> R:
        """Learn a task; on any error the learner is as it was.

        Args:
            record: What is known of the task before.
            work: Learns it and returns the losses of all steps; it may replace the record.

        Raises:
            ConfigError: If the name is taken or empty, or the record could not be read from a file.
        """
        record = type(record).from_dict(record.to_dict())
        name = record.name
        if not name:
            raise ConfigError("a task needs a name, got an empty one")
        if name in self.tasks:
            raise ConfigError(f"task {name!r} is learned already; choose another name")
        before = self.state()
        start = time.perf_counter()
        try:
            self.tasks[name] = record
            losses = work()
            last = losses[-max(1, len(losses) // 10) :]
            self.tasks[name] = dataclasses.replace(
                self.tasks[name],
                loss=sum(last) / len(last),
                seconds=time.perf_counter() - start,
            )
        except BaseException:
            self.restore(*before)
            raise
        return self.tasks[name]

    def record(self, task: str) -> R:
        """Return what is known of a task.

        Raises:
            UnknownNameError: If it was never learned.
        """
        if not isinstance(task, str) or task not in self.tasks:
            raise unknown_name("task", task, list(self.tasks))
        return self.tasks[task]

    @abc.abstractmethod
    def num_parameters(self) -> int:
        """Return how many learned numbers the learner holds, for all tasks together."""

    @abc.abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the learner's state by name."""

    def _facts(self) -> dict[str, Any]:
        """Return the rest of the learner's state as JSON types."""
        return {"tasks": [record.to_dict() for record in self.tasks.values()]}

    @abc.abstractmethod
    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over a state; the tensors are the learner's from now on."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a copy of the whole state: tensors by name, and JSON types."""
        return {k: v.detach().clone() for k, v in self._tensors().items()}, self._facts()

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over a state that `state` returned."""
        records: list[Any] = [self.Record.from_dict(values) for values in facts["tasks"]]
        self.tasks = {record.name: record for record in records}
        self._set({k: v.clone().to(self.device) for k, v in tensors.items()}, dict(facts))

    def _header(self) -> dict[str, Any]:
        """Return what a file says of the learner beside its class, settings and state."""
        return {}

    def _file_tensors(self) -> dict[str, Tensor]:
        """Return every tensor of a file: those of the state, and what else it takes to predict."""
        return self.state()[0]

    def save(self, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write the learner to one file, all of it or nothing.

        Args:
            path: A `.safetensors` file.
            notes: Plain values to keep with it; see `load`.

        Raises:
            ConfigError: If the notes are no plain values; nothing is written.
        """
        tensors = self._file_tensors()
        header = {
            "format": FORMAT,
            "learner": type(self).__name__,
            "config": self.config.to_dict(),
            **self._header(),
            "facts": self._facts(),
            "notes": plain_values(notes or {}, "notes"),
        }
        write_tensors(path, tensors, "learner", header)

    @classmethod
    def _read(cls, path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the header of a file that a learner of this class wrote.

        Raises:
            CheckpointError: If the file is damaged or foreign.
        """
        tensors, header = read_tensors(path, "learner")
        if header.get("format") != FORMAT or header.get("learner") != cls.__name__:
            raise CheckpointError(
                f"{path} holds a {header.get('learner')} of format {header.get('format')}, not a "
                f"{cls.__name__} of format {FORMAT}; load it with the class and the version of ghn "
                "that wrote it"
            )
        return tensors, header


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
