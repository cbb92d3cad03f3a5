"""The demo: does a model learn faster from predicted parameters than from its default ones?

Models that the checkpoint never saw are trained from both starts on the same batches of real
images. Each start gets its own best learning rate from a grid, chosen on the first seed by training
loss; the other seeds then run at that rate. What is reported is what was measured, a loss included.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from ghn.benchmarks.compare import Data, Run, Schedule, score, train
from ghn.benchmarks.outcome import STARTS, DemoConfig, DemoResult, ModelResult, Prediction, Start
from ghn.benchmarks.records import make_record
from ghn.benchmarks.targets import TARGETS
from ghn.benchmarks.timing import threads_of_torch
from ghn.benchmarks.workers import RunAll, workers
from ghn.errors import DataError
from ghn.rng import derive_seed, preserve_global_state

__all__ = ["load_demo_data", "run_demo", "run_task"]

Progress = Callable[[float, float, str], None]
Outcome = tuple[Run, Prediction | None]


@dataclasses.dataclass(frozen=True)
class Task:
    """One run: a model from one start at one learning rate with one seed."""

    model: str
    start: Start
    rate: float
    seed: int


def run_demo(config: DemoConfig, progress: Progress = lambda done, total, text: None) -> DemoResult:
    """Run the demo, each run with one thread, on which the last bits of a result depend.

    Args:
        config: Settings.
        progress: Called with (runs done, runs in all, what is running).

    Raises:
        DataError: If the data set is not found.
        CheckpointError: If the checkpoint is not found or cannot be read.
    """
    begin = time.perf_counter()
    _, source = load_demo_data(config.dataset, config.test_images)
    with threads_of_torch(1):
        with workers(config.jobs) as run_all:
            if config.steps is None:
                work = functools.partial(time_models, config)
                costs = [cost for _, cost in run_all(work, [0, 1])]
                config = config.replace(steps=_choose_steps(config, costs, begin))
            results, chosen = _run_tasks(config, run_all, progress)
        models = [_collect(name, config, chosen, results) for name in config.models]
        record = make_record(_command(config), config.seeds, source)
    return DemoResult(config, source["name"], models, record, time.perf_counter() - begin)


def _run_tasks(
    config: DemoConfig, run_all: RunAll, progress: Progress
) -> tuple[dict[Task, Outcome], dict[tuple[str, Start], float]]:
    """Try all rates on the first seed, then the best of each start on the others."""
    work = functools.partial(run_task, config)
    grid = [
        Task(m, s, r, config.seeds[0]) for m in config.models for s in STARTS for r in config.rates
    ]
    rest = len(config.models) * len(STARTS) * (len(config.seeds) - 1)
    results: dict[Task, Outcome] = {}

    def note(task: Task, result: Outcome) -> None:
        results[task] = result
        progress(len(results), len(grid) + rest, f"{task.model}, {task.start}")

    for task, result in run_all(work, grid):
        note(task, result)
    chosen = {
        (m, s): min(
            config.rates, key=lambda r: results[Task(m, s, r, config.seeds[0])][0].final_loss
        )
        for m in config.models
        for s in STARTS
    }
    for task, result in run_all(
        work, [Task(m, s, r, seed) for (m, s), r in chosen.items() for seed in config.seeds[1:]]
    ):
        note(task, result)
    return results, chosen


@functools.lru_cache(maxsize=1)
def load_demo_data(dataset: str, test_images: int) -> tuple[Data, dict[str, str]]:
    """Return the images to train on and test with, and the data set's name and hash.

    Args:
        dataset: `"cifar10"`, `"digits"`, or `"auto"`: CIFAR-10 where it is found, else the digits.
        test_images: Number of test images.

    Raises:
        DataError: If the data set is asked for by name and not found.
    """
    from ghn.data import find_data, load_images
    from ghn.training.tasks import ImageTask

    if dataset == "auto":
        try:
            find_data("cifar10", download=False)
            dataset = "cifar10"
        except DataError:
            dataset = "digits"
    train, test = load_images(dataset, "train"), load_images(dataset, "test")
    data = Data(ImageTask(train), ImageTask(test), test_images)
    return data, {"name": dataset, "hash": train.hash}


def run_task(config: DemoConfig, task: Task) -> Outcome:
    """Build, perhaps predict, then train one model; depends on nothing but its arguments."""
    data, _ = load_demo_data(config.dataset, config.test_images)
    with preserve_global_state():
        torch.manual_seed(derive_seed(task.seed, "default", task.model))
        model = TARGETS[task.model][1]()
    prediction = _predict(model, config, task.seed) if task.start == "predicted" else None
    schedule = Schedule(steps=config.steps or 1, batch=config.batch, rate=task.rate)
    return train(model, data, schedule, task.seed), prediction


def _predict(model: nn.Module, config: DemoConfig, seed: int) -> Prediction:
    from ghn.engine import predict_params

    report = predict_params(
        model,
        torch.zeros(1, 3, 32, 32),
        checkpoint=config.checkpoint,
        seed=seed,
    )
    return Prediction(
        seconds=report.seconds,
        predicted=len(report.predicted),
        kept=dict(Counter(report.kept.values())),
        checkpoint=str(report.checkpoint),
    )


def _collect(
    name: str,
    config: DemoConfig,
    chosen: dict[tuple[str, Start], float],
    results: dict[Task, Outcome],
) -> ModelResult:
    rates = {start: chosen[name, start] for start in STARTS}
    runs = {
        start: [results[Task(name, start, rates[start], seed)][0] for seed in config.seeds]
        for start in STARTS
    }
    predictions = [p for task, (_, p) in results.items() if task.model == name and p is not None]
    seconds = statistics.median(p.seconds for p in predictions)
    what, build = TARGETS[name]
    with preserve_global_state():
        elements = sum(p.numel() for p in build().parameters())
    prediction = dataclasses.replace(predictions[0], seconds=seconds)
    return ModelResult(name, what, elements, prediction, rates, runs)


def _choose_steps(config: DemoConfig, costs: list[tuple[float, float]], begin: float) -> int:
    """Return a number of steps that fits the minutes: a multiple of 10 from 20 to 400.

    Args:
        config: Settings.
        costs: What `time_models` measured in processes that ran at the same time.
        begin: When the demo began, in seconds of `time.perf_counter`.
    """
    step, rest = (max(cost) for cost in zip(*costs, strict=True))
    runs_a_model = len(STARTS) * (len(config.rates) + len(config.seeds) - 1)
    left = 60 * config.minutes - (time.perf_counter() - begin)
    # A fifth is for predicting, for a process that waits for the other, and for the report.
    each = 0.8 * left * min(config.jobs, 2) / runs_a_model
    return max(20, min(400, int((each - rest) / step) // 10 * 10))


def time_models(config: DemoConfig, _: int) -> tuple[float, float]:
    """Return the seconds of one step of every model, and of all accuracies of a run of each."""
    data, _source = load_demo_data(config.dataset, config.test_images)
    schedule = Schedule(steps=4, batch=config.batch, rate=1e-3, tests=2)
    step = rest = 0.0
    for name in config.models:
        with preserve_global_state():
            model = TARGETS[name][1]()
        score(model, data, config.batch)
        start = time.perf_counter()
        score(model, data, config.batch)
        once = time.perf_counter() - start
        train(model, data, schedule, seed=0)
        step += max(time.perf_counter() - start - 3 * once, 0.0) / schedule.steps
        rest += Schedule.tests * once
    return max(step, 1e-6), rest


def _command(config: DemoConfig) -> str:
    """Return the command line that makes the same runs again."""
    flags = {
        "dataset": config.dataset,
        "steps": config.steps,
        "batch": config.batch,
        "test-images": config.test_images,
        "checkpoint": config.checkpoint,
    }
    words = [f"--{k} {v}" for k, v in flags.items() if v is not None]
    words += [f"--seed {seed}" for seed in config.seeds]
    words += [f"--rate {rate:g}" for rate in config.rates]
    words += [f"--model {model}" for model in config.models]
    return " ".join(["ghn demo", *words])
