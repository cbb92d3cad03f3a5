"""`ghn run bayesian`: noise against a deep ensemble, dropout and a single network.

Each method chooses among as many settings, by its likelihood on validation data of a split that is
not among the seeds; steps are chosen along the way. Then it is trained and tested on each seed.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ghn.config import Config, check_distinct
from ghn.errors import ConfigError
from ghn.graphs import trace
from ghn.methods.bayesian.fit import FitConfig, fit, predict
from ghn.methods.bayesian.metrics import classification_metrics, regression_metrics, reliability
from ghn.methods.bayesian.report import Choice, Result, Row
from ghn.methods.bayesian.samplers import DeepEnsemble, Dropout, NoiseHypernetwork, Sampler
from ghn.methods.bayesian.tasks import TASKS, Split, network, split
from ghn.registry import Registry
from ghn.rng import preserve_global_state

__all__ = ["METHODS", "RunConfig", "data_of", "run"]

CHOSEN_ON = 1000  # seed of the split that settings are chosen on
RATES = (3e-3, 1e-2)
Settings = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Settings of `ghn run bayesian`.

    Attributes:
        tasks: Names of tasks: diabetes (regression), digits (classification).
        methods: What is compared: noise, ensemble, dropout, single.
        seeds: Seeds; each sets the split of the data, initial weights and draws.
        steps: Most steps; each method chooses a half, a quarter or an eighth of them, or all.
        members: Networks of a deep ensemble.
        count: Networks that noise and dropout are asked for at a test.
        out: Folder of the results.
    """

    tasks: tuple[str, ...] = ("diabetes", "digits")
    methods: tuple[str, ...] = ("noise", "ensemble", "dropout", "single")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int = 120
    members: int = 10
    count: int = 50
    out: str = "runs/bayesian"

    def __post_init__(self) -> None:
        for method in self.methods:
            METHODS[method]
        for task in self.tasks:
            TASKS[task]
        if not self.tasks or not self.methods or not self.seeds:
            raise ConfigError(f"a run needs a task, a method and a seed, got {self}")
        check_distinct(tasks=self.tasks, methods=self.methods, seeds=self.seeds)
        if self.steps < 8 or min(self.members, self.count) < 1:
            raise ConfigError(f"steps must be 8 or more, members and count 1 or more, got {self}")


@dataclasses.dataclass(frozen=True)
class _Maker:
    """A method.

    Attributes:
        make: Builds the sampler, and the network that runs, from: the task, its training examples,
            settings, members, the seed.
        settings: What it chooses from; as many for each method.
    """

    make: Callable[[str, Split, Settings, int, int], tuple[Sampler, nn.Module]]
    settings: list[Settings]


METHODS: Registry[_Maker] = Registry("method")
"""Methods by name."""


def _grid(**values: tuple[float, ...]) -> list[Settings]:
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


def _noise(
    task: str, data: Split, settings: Settings, members: int, seed: int
) -> tuple[Sampler, nn.Module]:
    model = network(task)
    examples = len(data.inputs) if settings["weighted"] else 0
    return NoiseHypernetwork(model, trace(model, data.inputs[:2]), examples, seed), model


def _ensemble(
    task: str, data: Split, settings: Settings, members: int, seed: int
) -> tuple[Sampler, nn.Module]:
    models = [network(task) for _ in range(members)]
    return DeepEnsemble(models), models[0]


def _single(
    task: str, data: Split, settings: Settings, members: int, seed: int
) -> tuple[Sampler, nn.Module]:
    return _ensemble(task, data, settings, 1, seed)


def _dropout(
    task: str, data: Split, settings: Settings, members: int, seed: int
) -> tuple[Sampler, nn.Module]:
    model = network(task, settings["dropout"])
    return Dropout(model), model


_DECAYS = _grid(rate=RATES, prior=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0))
METHODS.register("noise")(
    _Maker(_noise, _grid(rate=RATES, prior=(1.0, 5.0, 25.0), weighted=(0.0, 1.0)))
)
METHODS.register("ensemble")(_Maker(_ensemble, _DECAYS))
METHODS.register("dropout")(
    _Maker(_dropout, _grid(rate=RATES, prior=(0.3, 3.0), dropout=(0.05, 0.1, 0.2)))
)
METHODS.register("single")(_Maker(_single, _DECAYS))


def run(config: RunConfig, ticker: Callable[[float, float, str], None] | None = None) -> Result:
    """Choose settings for each method, then train and test it on each seed.

    Args:
        config: What to run.
        ticker: Called with runs done, runs in all, and a text.
    """
    pairs = list(itertools.product(config.tasks, config.methods))
    total = sum(len(METHODS[method].settings) + len(config.seeds) for _, method in pairs)
    done = itertools.count(1)
    rows, choices = [], []
    for task, method in pairs:

        def tell(text: str, task: str = task, method: str = method) -> None:
            if ticker is not None:
                ticker(next(done), total, f"{task}, {method}: {text}")

        choice = _choose(config, task, method, tell)
        choices.append(choice)
        for seed in config.seeds:
            rows.append(_run_one(config, choice, seed))
            tell(f"seed {seed}")
    return Result("bayesian", config.to_dict(), rows, choices)


def data_of(config: RunConfig) -> dict[str, str]:
    """Return the names of the data, for a record; scikit-learn brings them."""
    return {task: f"sklearn-{task}" for task in config.tasks}


def _choose(config: RunConfig, task: str, method: str, tell: Callable[[str], None]) -> Choice:
    """Return the settings and the steps with the best likelihood on validation data."""
    checks = [config.steps // part for part in (8, 4, 2, 1)]
    found: list[tuple[float, Settings, int]] = []
    for settings in METHODS[method].settings:
        sampler, model, data = _built(config, task, method, settings, CHOSEN_ON)

        def watch(
            step: int,
            sampler: Sampler = sampler,
            model: nn.Module = model,
            data: dict[str, Split] = data,
            settings: Settings = settings,
        ) -> None:
            if step in checks:
                nll = _measure(
                    predict(sampler, model, data["val"].inputs, config.count), data["val"]
                )
                found.append((nll["nll"], settings, step))

        _train(sampler, model, data["fit"], settings, config.steps, CHOSEN_ON, watch)
        tell(", ".join(f"{name} {value:g}" for name, value in settings.items()))
    finite = [one for one in found if math.isfinite(one[0])]
    nll, settings, steps = min(finite, key=lambda one: one[0])
    return Choice(task, method, settings, steps, nll, len(METHODS[method].settings))


def _run_one(config: RunConfig, choice: Choice, seed: int) -> Row:
    sampler, model, data = _built(config, choice.task, choice.method, choice.settings, seed)
    _train(sampler, model, data["fit"], choice.settings, choice.steps, seed)
    output = predict(sampler, model, data["test"].inputs, config.count)
    return Row(
        task=choice.task,
        method=choice.method,
        seed=seed,
        parameters=sum(p.numel() for p in sampler.parameters() if p.requires_grad),
        networks=len(output),
        metrics=_measure(output, data["test"]),
        reliability=reliability(output, data["test"].targets),
    )


def _built(
    config: RunConfig, task: str, method: str, settings: Settings, seed: int
) -> tuple[Sampler, nn.Module, dict[str, Split]]:
    data = split(task, seed)
    with preserve_global_state():
        torch.manual_seed(seed)
        sampler, model = METHODS[method].make(task, data["fit"], settings, config.members, seed)
    return sampler, copy.deepcopy(model), data


def _train(
    sampler: Sampler,
    model: nn.Module,
    data: Split,
    settings: Settings,
    steps: int,
    seed: int,
    watch: Callable[[int], None] | None = None,
) -> None:
    config = FitConfig(steps=steps, rate=settings["rate"], prior=settings["prior"], seed=seed)
    fit(sampler, model, data.inputs, data.targets, config, watch)


def _measure(output: torch.Tensor, data: Split) -> dict[str, Any]:
    if data.targets.is_floating_point():
        return regression_metrics(output, data.targets)
    return classification_metrics(output, data.targets)
