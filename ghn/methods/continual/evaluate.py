"""Learn a sequence of tasks, score all of them after each, save, and go on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ghn.errors import ConfigError
from ghn.methods.continual.baselines import Joint
from ghn.methods.continual.loop import TaskLearner
from ghn.methods.continual.tasks import Batches, TaskData
from ghn.methods.sequence.runs import Progress, resumed

__all__ = ["evaluate", "learn_sequence"]


def evaluate(learner: TaskLearner, tasks: Sequence[TaskData]) -> dict[str, float]:
    """Return the accuracy of each task that was learned, in [0, 1], by its name."""
    return {t.name: learner.evaluate(t.test, t.name) for t in tasks if t.name in learner.tasks}


def learn_sequence(
    make: Callable[[], TaskLearner],
    model: nn.Module,
    tasks: Sequence[TaskData],
    *,
    path: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> tuple[TaskLearner, list[list[float]]]:
    """Learn tasks in their order; return the learner and the matrix of accuracies.

    Args:
        make: Makes a new learner.
        model: The module that it learns for.
        tasks: What to learn.
        path: Where the learner and the matrix are saved after each task. If the file is there
            already, learning goes on after its last task, with the same result.
        settings: What identifies the run, in plain values; a file of another run is refused.
        progress: Called with steps done, steps in all, and a text.

    Raises:
        ConfigError: If the file belongs to a run with other settings, or holds more tasks, or no
            file could hold these settings.
    """
    learner, matrix = _start(make, model, tasks, path, dict(settings or {}))
    for number, task in enumerate(tasks[len(matrix) :], len(matrix)):
        for loader in [t.train for t in tasks]:
            if isinstance(loader, Batches):
                loader.restart()

        def tell(done: int, total: int, number: int = number, name: str = task.name) -> None:
            if progress is not None:
                progress(number * total + done, len(tasks) * total, name)

        learner.learn(task.name, task.train, classes=task.classes, progress=tell)
        matrix.append([learner.evaluate(t.test, t.name) for t in tasks[: number + 1]])
        if path is not None:
            learner.save(path, {"settings": dict(settings or {}), "matrix": matrix})
    return learner, matrix


def _start(
    make: Callable[[], TaskLearner],
    model: nn.Module,
    tasks: Sequence[TaskData],
    path: Path | None,
    settings: dict[str, Any],
) -> tuple[TaskLearner, list[list[float]]]:
    """Return a new learner, or that of a file, and its matrix."""
    learner = make()
    kind = type(learner)
    found = resumed(path, lambda file: kind.load(file, model), settings)
    if found is None:
        return learner, []
    learner, matrix = found[0], found[1]["matrix"]
    if len(matrix) > len(tasks):
        raise ConfigError(
            f"{path} holds {len(matrix)} tasks, {len(tasks)} are asked for; ask for as many or "
            "more, or choose another folder with --out"
        )
    if isinstance(learner, Joint):
        for task in tasks[: len(matrix)]:
            learner.remember(task.name, task.train)
    return learner, matrix
