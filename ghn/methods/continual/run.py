"""`ghn run continual`: methods on a benchmark, over seeds, saved after each task.

A run that was killed goes on at the last task that was finished, with the same result.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghn.config import Config, check_distinct, plain_values
from ghn.data import load_images
from ghn.device import choose_device
from ghn.errors import ConfigError
from ghn.graphs import trace
from ghn.io import made_folder
from ghn.methods.continual.baselines import EWC, EWCConfig, FineTuning, Joint, Separate
from ghn.methods.continual.config import ContinualConfig, LoopConfig
from ghn.methods.continual.evaluate import learn_sequence
from ghn.methods.continual.learner import ContinualLearner
from ghn.methods.continual.loop import TaskLearner
from ghn.methods.continual.report import Result, Row
from ghn.methods.continual.tasks import BENCHMARKS, Benchmark
from ghn.methods.sequence.runs import Progress, laid_over
from ghn.registry import Registry
from ghn.rng import preserve_global_state

__all__ = ["METHODS", "RunConfig", "data_of", "run"]

SPLITS = {"test": ("train", "test"), "val": ("fit", "val")}
MATCHED = "-matched"
SMALL_STATE: dict[str, Any] = {"dim": 16, "state": 16, "chunk": 128, "codes": "learned"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Settings of `ghn run continual`.

    Attributes:
        benchmark: Name of a sequence of tasks: split-digits, permuted-digits, permuted-mnist,
            split-cifar10, resnet32-cifar.
        methods: Learners to compare: recurrent, recurrent-reset, chunked, dense; with learned codes
            instead of codes from the graph recurrent-learned, chunked-learned, recurrent-16,
            recurrent-48, recurrent-grow; and fine-tuning, ewc, separate, joint, also as
            NAME-matched, with a network so wide that they hold as many parameters as the recurrent
            hypernetwork.
        seeds: Seeds; each sets initial weights, permutations and orders.
        split: `"test"`: train on all training data, score on test data; `"val"`: both on training
            data, to choose settings by.
        out: Folder of the runs and their results.
        tasks: Learn only the first ones; 0: all.
        steps: Steps of each task, in place of the benchmark's; 0: those.
        device: Where to compute: `"auto"`: an accelerator if there is one; `"cpu"`, `"cuda"`.
        settings: Settings of the learners, over the benchmark's own.
    """

    benchmark: str = "split-digits"
    methods: tuple[str, ...] = ("recurrent", "chunked", "fine-tuning", "separate")
    seeds: tuple[int, ...] = (0,)
    split: str = "test"
    out: str = "runs/continual"
    tasks: int = 0
    steps: int = 0
    device: str = "auto"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if not self.methods or not self.seeds or min(self.tasks, self.steps) < 0:
            raise ConfigError(f"a run needs a method, a seed and no negative number, got {self}")
        check_distinct(methods=self.methods, seeds=self.seeds)


@dataclasses.dataclass(frozen=True)
class _Maker:
    """A learner's class and the settings that make it what its name says."""

    learner: type[TaskLearner]
    config: type[LoopConfig]
    settings: dict[str, Any]


METHODS: Registry[_Maker] = Registry("learner")
"""Learners by the names that a benchmark's table shows."""

_HYPERNETWORKS: dict[str, dict[str, Any]] = {
    "recurrent": {},
    "recurrent-reset": {"reset": True},
    "recurrent-learned": {"codes": "learned"},
    "chunked": {"decoder": "chunked"},
    "chunked-learned": {"decoder": "chunked", "codes": "learned"},
    "dense": {"decoder": "dense"},
    "recurrent-16": SMALL_STATE,
    "recurrent-48": {**SMALL_STATE, "state": 48},
    "recurrent-grow": {**SMALL_STATE, "grow": 8},
}
for _name, _own in _HYPERNETWORKS.items():
    METHODS.register(_name)(_Maker(ContinualLearner, ContinualConfig, _own))
METHODS.register("fine-tuning")(_Maker(FineTuning, LoopConfig, {}))
METHODS.register("ewc")(_Maker(EWC, EWCConfig, {}))
METHODS.register("separate")(_Maker(Separate, LoopConfig, {}))
METHODS.register("joint")(_Maker(Joint, LoopConfig, {}))


@dataclasses.dataclass(frozen=True)
class _Planned:
    """One method with one seed."""

    method: str
    seed: int
    maker: _Maker
    settings: dict[str, Any]


def run(config: RunConfig, ticker: Progress | None = None) -> Result:
    """Run methods on a benchmark.

    Args:
        config: What to run.
        ticker: Called with work done, work in all, and a text.

    Raises:
        UnknownNameError: If there is no such benchmark or method.
        ConfigError: If a method does not take the settings, or the folder cannot be made; nothing
            is trained then.
    """
    benchmark = BENCHMARKS[config.benchmark]
    runs = [
        _planned(config, benchmark, method, seed)
        for seed in config.seeds
        for method in config.methods
    ]
    made_folder(Path(config.out) / _folder(config))
    rows = []
    for number, one in enumerate(runs):

        def tell(done: int, of: int, text: str, number: int = number, one: _Planned = one) -> None:
            if ticker is not None:
                ticker(number * of + done, len(runs) * of, f"{one.method}: {text}")

        rows.append(_run_one(config, benchmark, one, tell))
    rows.sort(key=lambda row: config.methods.index(row.method))
    title = f"{config.benchmark} ({benchmark.summary}), {config.split} split"
    return Result(_folder(config), title, rows)


def data_of(config: RunConfig) -> dict[str, str]:
    """Return the names and the digests of the data of a run, for its record."""
    names = BENCHMARKS[config.benchmark].data
    return {name: load_images(name, "test").hash for name in names}


def _folder(config: RunConfig) -> str:
    return f"{config.benchmark}-{config.split}"


def _planned(config: RunConfig, benchmark: Benchmark, method: str, seed: int) -> _Planned:
    """Return a method with its settings, which it takes."""
    base = method.removesuffix(MATCHED)
    maker = METHODS[base]
    if base != method and maker.learner is ContinualLearner:
        raise ConfigError(f"{base} is what others are matched to; there is no {method}")
    settings = _settings(config, benchmark, method, maker, seed)
    try:
        maker.config.from_dict(settings)
    except ConfigError as error:
        raise ConfigError(
            f"{method} does not take these settings: {error}. Give them in a run of methods that do"
        ) from error
    return _Planned(method, seed, maker, settings)


def _run_one(config: RunConfig, benchmark: Benchmark, one: _Planned, progress: Progress) -> Row:
    method, seed, maker, settings = one.method, one.seed, one.maker, one.settings
    with preserve_global_state():
        torch.manual_seed(seed)
        model = benchmark.network(1.0)
        if method.endswith(MATCHED):
            width = _matched_width(benchmark, model, one_each=maker.learner is Separate)
            model = benchmark.network(width)
    model = model.to(choose_device(config.device))
    tasks = benchmark.tasks(seed, SPLITS[config.split], benchmark.batch)
    path = Path(config.out) / _folder(config) / f"{method}-{seed}.safetensors"
    learner, matrix = learn_sequence(
        lambda: maker.learner(copy.deepcopy(model), config=maker.config.from_dict(settings)),
        model,
        tasks[: config.tasks or None],
        path=path,
        settings=settings,
        progress=progress,
    )
    return Row(
        method=method,
        seed=seed,
        parameters=learner.num_parameters(),
        matrix=[[round(100 * value, 3) for value in row] for row in matrix],
        seconds=sum(record.seconds for record in learner.tasks.values()),
        settings=settings,
    )


def _settings(
    config: RunConfig, benchmark: Benchmark, method: str, maker: _Maker, seed: int
) -> dict[str, Any]:
    """Lay settings over one another: of all methods, of the method, of the run."""
    steps = {"steps": config.steps} if config.steps else {}
    layers = [
        benchmark.settings.get("", {}),
        maker.settings,
        benchmark.settings.get(method, {}),
        config.settings,
        steps,
    ]
    return plain_values(laid_over([{"seed": seed}, *layers]), "settings")


def _matched_width(benchmark: Benchmark, model: nn.Module, one_each: bool) -> float:
    """Return the width at which networks with a head for each task have a hypernetwork's size."""
    own = laid_over([benchmark.settings.get(name, {}) for name in ("", "recurrent")])
    config = ContinualConfig.from_dict(own)
    wanted = ContinualLearner(model, config=config).num_parameters() + benchmark.count * config.dim

    def size(width: float) -> int:
        network = benchmark.network(width)
        specs = trace(network).specs.values()
        total = sum(spec.numel for spec in specs)
        heads = sum(spec.numel for spec in specs if spec.head)
        return total * benchmark.count if one_each else total + heads * (benchmark.count - 1)

    low, high = 0.02, 1.0
    while size(high) < wanted:
        high *= 2
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) <= wanted else (low, middle)
    return low
