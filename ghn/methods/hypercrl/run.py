"""`ghn run hypercrl`: learners of dynamics on a scenario, over seeds, saved after each task.

Each learns the scenario's tasks in their order. After each task its model is compared with the
environment on transitions that it never saw, for all tasks so far, and the planner plays episodes
from the same starts for all learners. A run that was killed goes on after the last task that was
finished, with the same result.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from ghn.config import Config, check_distinct
from ghn.errors import ConfigError
from ghn.methods.hypercrl.acting import transitions_of
from ghn.methods.hypercrl.baselines import Coreset, FineTuning, FineTuningHeads, Joint, Separate
from ghn.methods.hypercrl.config import CoresetConfig, DynamicsConfig, HyperCRLConfig
from ghn.methods.hypercrl.film import film_of
from ghn.methods.hypercrl.learner import HyperCRL
from ghn.methods.hypercrl.loop import DynamicsLearner
from ghn.methods.hypercrl.memory import Transitions
from ghn.methods.hypercrl.report import Result, Row
from ghn.methods.hypercrl.scenarios import SCENARIOS, Scenario
from ghn.methods.hypercrl.variants import check_variants
from ghn.methods.sequence.runs import Progress, laid_over, resumed
from ghn.registry import Registry, unknown_name
from ghn.rng import derive_seed

__all__ = ["METHODS", "RunConfig", "data_of", "run"]

TESTED = 1000  # transitions of each task that models are tested on


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Settings of `ghn run hypercrl`.

    Attributes:
        scenario: Name of a sequence of tasks: half-cheetah, reacher, pusher, door,
            reacher-eight.
        methods: Learners to compare: dense, chunked, recurrent (hypernetworks by their decoders),
            separate, fine-tuning, fine-tuning-heads, joint, coreset; NAME-first scales all tasks
            with the first task's means and deviations.
        seeds: Seeds; each sets initial weights, environments, actions and batches.
        out: Folder of the runs and their results.
        tasks: Learn only the first ones; 0: all.
        episodes: Episodes that score a task; 0: the scenario's number.
        film: Whether the first method is filmed.
        settings: Settings of the learners, over the scenario's own.
    """

    scenario: str = "reacher"
    methods: tuple[str, ...] = ("dense", "separate", "fine-tuning", "coreset")
    seeds: tuple[int, ...] = (0,)
    out: str = "runs/hypercrl"
    tasks: int = 0
    episodes: int = 0
    film: bool = True
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.methods or not self.seeds or min(self.tasks, self.episodes) < 0:
            raise ConfigError(f"a run needs a method, a seed and no negative number, got {self}")
        check_distinct(methods=self.methods, seeds=self.seeds)


@dataclasses.dataclass(frozen=True)
class _Maker:
    """A learner's class and the settings that make it what its name says."""

    learner: type[DynamicsLearner]
    config: type[DynamicsConfig]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


METHODS: Registry[_Maker] = Registry("learner")
"""Learners by the names that a table shows."""

for _name in ("dense", "chunked", "recurrent"):
    METHODS.register(_name)(_Maker(HyperCRL, HyperCRLConfig, {"decoder": _name}))
METHODS.register("separate")(_Maker(Separate, DynamicsConfig))
METHODS.register("joint")(_Maker(Joint, CoresetConfig))
METHODS.register("coreset")(_Maker(Coreset, CoresetConfig))
METHODS.register("fine-tuning")(_Maker(FineTuning, DynamicsConfig))
METHODS.register("fine-tuning-heads")(_Maker(FineTuningHeads, DynamicsConfig))
for _name, _maker in list(METHODS.items()):
    METHODS.register(f"{_name}-first")(
        dataclasses.replace(_maker, settings={**_maker.settings, "normalise": "first"})
    )


def run(config: RunConfig, ticker: Progress | None = None) -> Result:
    """Run methods on a scenario.

    Args:
        config: What to run.
        ticker: Called with work done, work in all, and a text.

    Raises:
        MissingExtraError: If gymnasium or MuJoCo is not installed.
    """
    scenario = SCENARIOS[config.scenario]
    makers = {name: METHODS[name] for name in config.methods}
    _check_settings(config, list(makers.values()))
    names = list(scenario.tasks)[: config.tasks or None]
    changes = check_variants({name: scenario.make(scenario.tasks[name]) for name in names})
    runs = [(method, seed) for seed in config.seeds for method in config.methods]
    rows: list[Row] = []
    for number, (method, seed) in enumerate(runs):

        def tell(done: int, of: int, text: str, number: int = number, method: str = method) -> None:
            if ticker is not None:
                ticker(number * of + done, len(runs) * of, f"{method}: {text}")

        rows.append(_One(config, scenario, names, method, makers[method], seed).row(tell))
    rows.sort(key=lambda row: config.methods.index(row.method))
    result = Result(config.scenario, f"{config.scenario}: {scenario.summary}", names, changes, rows)
    if config.film:
        method = config.methods[0]
        one = _One(config, scenario, names, method, makers[method], config.seeds[0])
        result.films = film_of(one.learner(), scenario, names, one.path.with_suffix(""))
    return result


def _check_settings(config: RunConfig, makers: list[_Maker]) -> None:
    """Refuse a setting that none of the learners has."""
    known = {field.name for maker in makers for field in dataclasses.fields(maker.config)}
    for name in config.settings:
        if name not in known:
            raise unknown_name("setting", name, sorted(known))


def data_of(config: RunConfig) -> dict[str, str]:
    """Return the versions of the simulators, which the data come from, for a run's record."""
    from importlib.metadata import version

    return {name: version(name) for name in ("gymnasium", "mujoco")}


@dataclasses.dataclass(frozen=True)
class _One:
    """One method with one seed."""

    config: RunConfig
    scenario: Scenario
    names: list[str]
    method: str
    maker: _Maker
    seed: int

    @property
    def path(self) -> Path:
        folder = Path(self.config.out) / self.config.scenario
        return folder / f"{self.method}-{self.seed}.safetensors"

    @property
    def settings(self) -> dict[str, Any]:
        known = {field.name for field in dataclasses.fields(self.maker.config)}
        further = {k: v for k, v in self.config.settings.items() if k in known}
        layers = [{"seed": self.seed}, self.scenario.settings, self.maker.settings, further]
        return laid_over(layers)

    def learner(self) -> DynamicsLearner:
        """Return the learner that was saved."""
        return self.maker.learner.load(self.path)[0]

    def row(self, progress: Progress) -> Row:
        """Learn the tasks, or those that are left, and score all after each."""
        settings = self.settings
        spoken = {**settings, "episodes": self._episodes()}
        found = resumed(self.path, self.maker.learner.load, spoken)
        if found:
            learner, notes = found
        else:
            first = self.scenario.make(self.scenario.tasks[self.names[0]])
            learner = self.maker.learner(first, self.maker.config.from_dict(settings))
            notes = {"settings": spoken, "scores": [], "bytes": []}
        for number in range(len(learner.tasks), len(self.names)):
            name = self.names[number]

            def tell(done: int, of: int, number: int = number, name: str = name) -> None:
                progress(number * of + done, len(self.names) * of, name)

            env = self.scenario.make(self.scenario.tasks[name])
            learner.learn(name, env, self.scenario.cost, progress=tell)
            notes["scores"].append(
                {earlier: self._score(learner, earlier) for earlier in self.names[: number + 1]}
            )
            notes["bytes"].append(learner.bytes_held())
            learner.save(self.path, notes)
        return Row(
            method=self.method,
            seed=self.seed,
            parameters=learner.num_parameters(),
            scores=notes["scores"],
            held=notes["bytes"],
            phases=[record.phases for record in learner.tasks.values()],
            settings=settings,
        )

    def _episodes(self) -> int:
        return self.config.episodes or self.scenario.episodes

    def _score(self, learner: DynamicsLearner, name: str) -> dict[str, Any]:
        """Return a task's model error and returns, and how long playing took."""
        env = self.scenario.make(self.scenario.tasks[name])
        seed = derive_seed(self.seed, "test", name)
        error = learner.error(name, self._test(env, seed))
        start = time.process_time()
        reached: list[list[torch.Tensor]] = [[]]
        gained: list[float] = []
        for episode in range(self._episodes()):
            reached.append([])
            gained += learner.play(
                name,
                env,
                self.scenario.cost,
                seed=derive_seed(seed, episode),
                watch=reached[-1].append,
            )
        success = self.scenario.success
        done = [success(torch.stack(states)) for states in reached[1:]] if success else None
        return {
            "error": error,
            "returns": gained,
            "done": None if done is None else sum(done) / len(done),
            "seconds": time.process_time() - start,
        }

    def _test(self, env: Any, seed: int) -> Transitions:
        hold = self.settings.get("hold", DynamicsConfig().hold)
        return transitions_of(env, TESTED, hold=hold, seed=seed)
