"""The demo: does a model learn faster from predicted parameters than from its default ones?

Models that the checkpoint never saw are trained from both starts on the same batches of real
images. Each start gets its own best learning rate from a grid, chosen on the first seed by training
loss; the other seeds then run at that rate. What is reported is what was measured, a loss included.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from ghn.benchmarks.compare import Images, Run, Schedule, train
from ghn.benchmarks.outcome import STARTS, DemoConfig, DemoResult, ModelResult, Prediction, Start
from ghn.benchmarks.records import make_record
from ghn.benchmarks.targets import TARGETS
from ghn.errors import DataError
from ghn.rng import derive_seed, preserve_global_state

__all__ = ["load_demo_images", "run_demo", "run_task"]

TRAIN_IMAGES = 12_000  # more than the demo's steps read

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
    """Run the demo.

    Args:
        config: Settings.
        progress: Called with (runs done, runs in all, what is running).

    Raises:
        DataError: If the data set is not found.
        CheckpointError: If the checkpoint is not found or cannot be read.
    """
    begin = time.perf_counter()
    _, source = load_demo_images(config.dataset, config.test_images)
    if config.steps is None:
        config = config.replace(steps=_choose_steps(config))
    grid = [
        Task(m, s, r, config.seeds[0]) for m in config.models for s in STARTS for r in config.rates
    ]
    rest = len(config.models) * len(STARTS) * (len(config.seeds) - 1)
    results: dict[Task, Outcome] = {}

    def note(task: Task, result: Outcome) -> None:
        results[task] = result
        progress(len(results), len(grid) + rest, f"{task.model}, {task.start}")

    with _executor(config) as run_all:
        for task, result in run_all(grid):
            note(task, result)
        chosen = {
            (m, s): min(
                config.rates, key=lambda r: results[Task(m, s, r, config.seeds[0])][0].final_loss
            )
            for m in config.models
            for s in STARTS
        }
        for task, result in run_all(
            [Task(m, s, r, seed) for (m, s), r in chosen.items() for seed in config.seeds[1:]]
        ):
            note(task, result)
    models = [_collect(name, config, chosen, results) for name in config.models]
    record = make_record(_command(config), config.seeds, source)
    return DemoResult(config, source["name"], models, record, time.perf_counter() - begin)


@contextmanager
def _executor(
    config: DemoConfig,
) -> Iterator[Callable[[list[Task]], Iterable[tuple[Task, Outcome]]]]:
    """Give a function that runs tasks, here or in processes, and yields each when it is done."""
    work = functools.partial(run_task, config)
    if config.jobs == 1:
        yield lambda tasks: ((task, work(task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        config.jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:

        def run_all(tasks: list[Task]) -> Iterator[tuple[Task, Outcome]]:
            futures = {pool.submit(work, task): task for task in tasks}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()

        try:
            yield run_all
        except BaseException:  # an error or Ctrl-C: what has not begun never shall
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@functools.lru_cache(maxsize=1)
def load_demo_images(dataset: str, test_images: int) -> tuple[Images, dict[str, str]]:
    """Return the images to train on and test with, and the data set's name and hash.

    Args:
        dataset: `"cifar10"`, `"digits"`, or `"auto"`: CIFAR-10 where it is found, else the digits.
        test_images: Number of test images.

    Raises:
        DataError: If the data set is asked for by name and not found.
    """
    from ghn.data import find_data, load_images, normalize

    if dataset == "auto":
        try:
            find_data("cifar10")
            dataset = "cifar10"
        except DataError:
            dataset = "digits"
    train, test = load_images(dataset, "train"), load_images(dataset, "test")
    few = train.take(slice(0, TRAIN_IMAGES))
    test = test.take(slice(0, test_images))
    images = Images(normalize(few.images), few.labels, normalize(test.images), test.labels)
    return images, {"name": dataset, "hash": train.hash}


def run_task(config: DemoConfig, task: Task) -> Outcome:
    """Build, perhaps predict, then train one model; depends on nothing but its arguments."""
    images, _ = load_demo_images(config.dataset, config.test_images)
    with preserve_global_state():
        torch.manual_seed(derive_seed(task.seed, "default", task.model))
        model = TARGETS[task.model][1]()
    prediction = _predict(model, config, task.seed) if task.start == "predicted" else None
    schedule = Schedule(steps=config.steps or 1, batch=config.batch, rate=task.rate)
    return train(model, images, schedule, task.seed), prediction


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


def _choose_steps(config: DemoConfig) -> int:
    """Return a number of steps that fits the minutes: a multiple of 10 from 20 to 400."""
    cost = sum(_seconds_a_step(TARGETS[name][1], config.batch) for name in config.models)
    runs_a_model = len(STARTS) * (len(config.rates) + len(config.seeds) - 1)
    # A quarter goes to accuracies, to predicting and to starting processes.
    budget = 60 * config.minutes * config.jobs * 0.7
    return max(20, min(400, int(budget / (cost * runs_a_model)) // 10 * 10))


def _seconds_a_step(build: Callable[[], nn.Module], batch: int) -> float:
    with preserve_global_state(), _one_thread():
        model = build()
        images, labels = torch.zeros(batch, 3, 32, 32), torch.zeros(batch, dtype=torch.long)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            F.cross_entropy(model(images), labels).backward()
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
