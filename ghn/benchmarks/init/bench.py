"""Run the initialization benchmark: rates on one seed, then the best of each start on the others.

Every run is a file in the folder of results, named by what it is, and is written when it is
complete: an interrupted benchmark goes on where it stopped, whoever ran what.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ghn.benchmarks.compare import Data, Run, Schedule, train
from ghn.benchmarks.init.config import InitConfig
from ghn.benchmarks.init.networks import Network, find_network, list_networks
from ghn.benchmarks.init.outcome import InitResult, NetworkResult
from ghn.benchmarks.init.sources import source_family, train_source
from ghn.benchmarks.init.starts import initialize
from ghn.benchmarks.records import make_record
from ghn.benchmarks.workers import RunAll, workers
from ghn.data import load_images, load_text
from ghn.device import choose_device
from ghn.errors import ConfigError
from ghn.io import write_json
from ghn.rng import make_generator
from ghn.training.tasks import ImageTask, Task, TextTask

__all__ = ["run_bench", "runs_folder"]

CHOICE_SEED = 0
WIDENINGS = 2
RATIO = 10**0.5

Progress = Callable[[float, float, str], None]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: a network from one start, at one rate, with one seed."""

    network: str
    start: str
    rate: float
    seed: int


def run_bench(
    config: InitConfig, progress: Progress = lambda done, total, text: None
) -> InitResult:
    """Run the benchmark, or what is left of it.

    Args:
        config: Settings.
        progress: Called with (trials done, trials in all, what was done).

    Raises:
        DataError: If the data cannot be found.
        ConfigError: If a network or a start is unknown, the networks read different things, or the
            folder holds results of other settings.
    """
    networks = [find_network(n) for n in config.models] or list_networks(
        config.split, config.networks
    )
    if config.seeds.count(CHOICE_SEED):
        raise ConfigError(f"seed {CHOICE_SEED} is the one that rates are chosen on; leave it out")
    if len({n.modality for n in networks}) > 1:
        raise ConfigError("the networks must all read images, or all read text")
    data = load_bench_data(config, networks[0].modality)
    _claim(config)
    if "trained" in config.starts:
        for family in sorted({source_family(n) for n in networks}):
            progress(0, 1, f"training a network of {family}")
            train_source(config, family, data)
    with workers(config.jobs, config.ray) as run_all:
        ledger = _Ledger(config, run_all, progress, len(networks))
        for _ in range(1 + WIDENINGS):
            ledger.run(_untried(config, networks, ledger))
        ledger.run(
            [
                Trial(network.name, start, ledger.best_rate(network.name, start), seed)
                for seed in config.seeds
                for network in networks
                for start in config.starts
            ]
        )
    results = [_collect(network, config, ledger, data) for network in networks]
    source = {"name": data.train.name, "hash": data.train.hash}
    record = make_record(_command(config), (CHOICE_SEED, *config.seeds), source)
    return InitResult(config, results, record)


class _Ledger:
    """Finished trials: those in the folder, and those that are run now."""

    def __init__(
        self, config: InitConfig, run_all: RunAll, progress: Progress, networks: int
    ) -> None:
        self.config, self.run_all, self.progress = config, run_all, progress
        self.expected = networks * len(config.starts) * (len(config.rates) + len(config.seeds))
        self.found: dict[Trial, dict[str, Any]] = {}

    def run(self, trials: Iterable[Trial]) -> None:
        """Run those trials that no file tells of."""
        missing = []
        for trial in trials:
            path = _path(self.config, trial)
            if path.is_file():
                self.found[trial] = json.loads(path.read_text(encoding="utf-8"))
            elif trial not in self.found:
                missing.append(trial)
        self._tell("")
        work = functools.partial(run_trial, self.config)
        for trial, result in self.run_all(work, missing):
            self.found[trial] = result
            self._tell(f"{trial.network}, {trial.start}")

    def _tell(self, text: str) -> None:
        self.progress(len(self.found), max(self.expected, len(self.found)), text)

    def tried(self, network: str, start: str) -> dict[float, float]:
        """Return the final training loss at each rate tried, on the seed for choices."""
        return {
            t.rate: self.of(t).final_loss
            for t in self.found
            if (t.network, t.start, t.seed) == (network, start, CHOICE_SEED)
        }

    def best_rate(self, network: str, start: str) -> float:
        """Return the rate with the lowest final training loss."""
        tried = self.tried(network, start)
        return min(tried, key=lambda rate: tried[rate])

    def of(self, trial: Trial) -> Run:
        """Return a finished trial's run."""
        run = self.found[trial]["run"]
        losses = [math.inf if loss is None else loss for loss in run["losses"]]
        return Run(losses, [(step, value) for step, value in run["scores"]])


def _untried(config: InitConfig, networks: list[Network], ledger: _Ledger) -> Iterator[Trial]:
    """Give the grid, and one rate further where the best so far lies on the edge."""
    for network in networks:
        for start in config.starts:
            tried = ledger.tried(network.name, start)
            rates = list(config.rates)
            if tried:
                best = ledger.best_rate(network.name, start)
                beyond = {min(tried): best / RATIO, max(tried): best * RATIO}
                rates = [float(f"{beyond[best]:.1e}")] if best in beyond else []
            for rate in rates:
                yield Trial(network.name, start, rate, CHOICE_SEED)


@functools.lru_cache(maxsize=1)
def load_bench_data(config: InitConfig, modality: str) -> Data:
    """Load what the networks are trained and scored on."""
    device = choose_device(config.device)
    tasks: list[Task] = []
    for name, split in ((config.data, "fit"), (config.scored_data, config.scored_on)):
        if modality == "text":
            tasks.append(TextTask(load_text(name, split), config.context))
        else:
            tasks.append(ImageTask(load_images(name, split, config.side).to(device)))
    return Data(tasks[0], tasks[1], config.scored)


def run_trial(config: InitConfig, trial: Trial) -> dict[str, Any]:
    """Build, initialize and train one network; write the result down and return it.

    It depends on nothing but its arguments.
    """
    network = find_network(trial.network)
    data = load_bench_data(config, network.modality)
    model = network.build(data.train.settings, trial.seed)
    inputs, _ = data.train.batch(config.batch, make_generator(trial.seed, "start"))
    notes = initialize(model, trial.start, network, inputs.cpu(), trial.seed, config)
    model.to(choose_device(config.device))
    schedule = Schedule(steps=config.steps, batch=config.batch, rate=trial.rate, tests=config.tests)
    run = train(model, data, schedule, trial.seed)
    losses = [loss if math.isfinite(loss) else None for loss in run.losses]
    result = {
        "trial": dataclasses.asdict(trial),
        "run": {"losses": losses, "scores": run.scores},
        "parameters": sum(p.numel() for p in model.parameters()),
        "notes": notes,
    }
    write_json(_path(config, trial), result)
    return result


def _path(config: InitConfig, trial: Trial) -> Path:
    name = hashlib.blake2b(repr(trial).encode(), digest_size=8).hexdigest()
    return runs_folder(config) / f"{name}.json"


def runs_folder(config: InitConfig) -> Path:
    """Return the folder of single runs."""
    return Path(config.out) / "runs"


def _claim(config: InitConfig) -> None:
    """Write the settings of a run, or check that the folder's are the same."""
    path = runs_folder(config) / "settings.json"
    keys = (
        *("data", "test_data", "side", "scored_on", "source_steps"),
        *("steps", "batch", "context", "scored", "tests"),
    )
    wanted = {key: value for key, value in config.to_dict().items() if key in keys}
    if not path.is_file():
        write_json(path, wanted)
    elif (found := json.loads(path.read_text(encoding="utf-8"))) != wanted:
        changed = [key for key in keys if found.get(key) != wanted[key]]
        raise ConfigError(
            f"{config.out} holds results of other settings ({', '.join(changed)}); choose another "
            "out folder, or remove this one"
        )


def _collect(network: Network, config: InitConfig, ledger: _Ledger, data: Data) -> NetworkResult:
    rates = {start: ledger.best_rate(network.name, start) for start in config.starts}
    chosen = {
        start: [Trial(network.name, start, rates[start], seed) for seed in config.seeds]
        for start in config.starts
    }
    first = {start: ledger.found[trials[0]] for start, trials in chosen.items()}
    return NetworkResult(
        name=network.name,
        group=network.group,
        parameters=first[config.starts[0]]["parameters"],
        metric=data.test.metric,
        rates=rates,
        tried={start: ledger.tried(network.name, start) for start in config.starts},
        runs={start: [ledger.of(t) for t in trials] for start, trials in chosen.items()},
        notes={start: result["notes"] for start, result in first.items()},
    )


def _command(config: InitConfig) -> str:
    """Return the command line that makes the same runs again."""
    defaults = InitConfig().to_dict()
    words = ["ghn bench init"]
    for key, value in config.to_dict().items():
        if value == defaults[key] or key in ("type", "jobs", "ray"):
            continue
        flag = "--" + key.replace("_", "-")
        values = value if isinstance(value, list) else [value]
        words += [f"{flag} {v}" for v in values]
    return " ".join(words)
