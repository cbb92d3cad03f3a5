"""Run the initialization benchmark: rates on one seed, then the best of each start on the others.

Every run is a file in the folder of results, named by what it is, and is written when it is
complete: an interrupted benchmark goes on where it stopped, whoever ran what. A network that cannot
be trained is left out, with the reason.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ghn.benchmarks.compare import Curve, Data, Run
from ghn.benchmarks.init.config import InitConfig, parts_of
from ghn.benchmarks.init.networks import Network, find_network, list_networks
from ghn.benchmarks.init.outcome import InitResult, NetworkResult
from ghn.benchmarks.init.sources import source_family, train_source
from ghn.benchmarks.init.trials import (
    CHOICE_SEED,
    Trial,
    load_bench_data,
    path_of,
    runs_folder,
    scored_counts,
    try_trial,
)
from ghn.benchmarks.records import make_record
from ghn.benchmarks.workers import RunAll, workers
from ghn.config import check_distinct
from ghn.engine.checkpoint import checkpoint_digest, load_ghn
from ghn.engine.source import default_checkpoint
from ghn.errors import ConfigError, GHNError, UnknownNameError
from ghn.io import sole_writer, write_json

__all__ = ["run_bench"]

WIDENINGS = 6  # from one end of the grid a thousandfold
RATIO = 10**0.5

Progress = Callable[[float, float, str], None]


def run_bench(
    config: InitConfig, progress: Progress = lambda done, total, text: None
) -> InitResult:
    """Run the benchmark, or what is left of it.

    Args:
        config: Settings.
        progress: Called with (trials done, trials in all, what was done).

    Raises:
        DataError: If the data cannot be found.
        ConfigError: If a network or a start is unknown, the networks read different things, the
            folder holds results of other settings, another process writes to it, or no network can
            be trained.
        CheckpointError: If a checkpoint cannot be used.
    """
    networks = _networks(config)
    modality = networks[0].modality
    data = load_bench_data(config, modality)
    for network in networks:
        _check_name(network, data)
    checkpoints = {start: _origin(start, modality) for start in config.starts}
    _check_starts(checkpoints)
    with sole_writer(config.out):
        _claim(config, data)
        return _run(config, data, networks, checkpoints, progress)


def _run(
    config: InitConfig,
    data: Data,
    networks: list[Network],
    checkpoints: dict[str, str],
    progress: Progress,
) -> InitResult:
    """Train what has not been trained yet, and collect all of it."""
    sources: dict[str, str] = {}
    if "trained" in config.starts:
        for family in sorted({source_family(n) for n in networks}):
            progress(0, 1, f"training a network of {family}")
            sources[family] = train_source(config, family, data)
    origins = _origins(networks, checkpoints, sources)
    with workers(config.jobs, config.ray) as run_all:
        ledger = _Ledger(config, run_all, progress, networks, origins)
        for _ in range(1 + WIDENINGS):
            ledger.run(_untried(ledger))
        ledger.run(
            [
                ledger.trial(network, start, ledger.best_rate(network.name, start), seed)
                for seed in config.seeds
                for network in ledger.networks
                for start in config.starts
            ]
        )
    if not ledger.networks:
        raise ConfigError(f"no network could be trained: {ledger.failed}")
    results = [_collect(network, config, ledger, data) for network in ledger.networks]
    source = {"name": data.train.name, "hash": data.train.hash}
    if config.test_data:
        scored = ", ".join(f"{test.name} (hash {test.hash})" for test in data.tests)
        source |= {"scored on": scored}
    record = make_record(_command(config), (CHOICE_SEED, *config.seeds), source)
    trained = {
        key: sorted({str(found.get(key, "")) for found in ledger.found.values()} - {""})
        for key in ("trained on", "trained with")
    }
    record = dataclasses.replace(record, machine={**record.machine, **trained})
    return InitResult(config, results, record, scored_counts(data), ledger.failed)


def _networks(config: InitConfig) -> list[Network]:
    """Return the networks, all of which read the same."""
    if config.seeds.count(CHOICE_SEED):
        raise ConfigError(f"seed {CHOICE_SEED} is the one that rates are chosen on; leave it out")
    side = config.side
    named = [find_network(name, side) for name in config.models]
    networks = named or list_networks(config.split, config.networks, side, config.context)
    check_distinct(models=[n.name for n in networks])
    if len({n.modality for n in networks}) > 1:
        raise ConfigError("the networks must all read images, or all read text")
    return networks


def _check_name(network: Network, data: Data) -> None:
    """Raise an error for a name that no model has; what else may go wrong is told later."""
    absent = network.file is not None and not network.file.is_file()
    try:
        network.build(data.train.settings, CHOICE_SEED, "meta")
    except UnknownNameError:
        raise
    except GHNError:
        if absent:
            raise


def _origin(start: str, modality: str) -> str:
    """Return what tells a checkpoint's weights and settings from those that it had before.

    Raises:
        ConfigError: If it is for networks that read something else.
    """
    kind, _, checkpoint = parts_of(start)
    if kind != "ghn":
        return ""
    name = checkpoint or default_checkpoint(modality)[0]
    ghn = load_ghn(name)
    if ghn.config.modality != modality:
        raise ConfigError(
            f"start {start!r} writes networks for {ghn.config.modality}, the networks are for "
            f"{modality}"
        )
    return checkpoint_digest(name)


def _check_starts(checkpoints: dict[str, str]) -> None:
    """Refuse one checkpoint under two names: its runs would be compared with themselves."""
    found: dict[tuple[str, ...], str] = {}
    for start, digest in checkpoints.items():
        kind, afterwards, _ = parts_of(start)
        same = found.setdefault((kind, *afterwards, digest), start)
        if same != start:
            raise ConfigError(f"starts {same!r} and {start!r} are the same; leave one out")


def _origins(
    networks: list[Network], checkpoints: dict[str, str], sources: dict[str, str]
) -> dict[tuple[str, str], str]:
    """Return by network and start what tells files from those that they were before.

    Args:
        networks: The networks, some of which are defined by a file.
        checkpoints: Digests by start.
        sources: Digests of trained networks by family.
    """
    found: dict[tuple[str, str], str] = {}
    for network in networks:
        digests = {**checkpoints, "trained": sources.get(source_family(network), "")}
        file = network.digest()
        found |= {(network.name, start): file + digests[start] for start in checkpoints}
    return found


class _Ledger:
    """Finished trials: those in the folder, and those that are run now."""

    def __init__(
        self,
        config: InitConfig,
        run_all: RunAll,
        progress: Progress,
        networks: list[Network],
        origins: dict[tuple[str, str], str],
    ) -> None:
        self.config, self.run_all, self.progress = config, run_all, progress
        self.networks, self.origins = networks, origins
        trials = len(config.rates) + len(config.seeds)
        self.expected = len(networks) * len(config.starts) * trials
        self.found: dict[Trial, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}

    def trial(self, network: Network, start: str, rate: float, seed: int) -> Trial:
        """Return the name of a training."""
        origin = self.origins[network.name, start]
        return Trial(network.name, start, origin, rate, seed)

    def run(self, trials: Iterable[Trial]) -> None:
        """Run those trials that no file tells of; networks of which one fails are left out."""
        missing = []
        for trial in trials:
            if trial in self.found:
                continue
            found = _written(path_of(self.config, trial))
            if found is None:
                missing.append(trial)
            else:
                self.found[trial] = found
        self._tell("")
        work = functools.partial(try_trial, self.config)
        for trial, result in self.run_all(work, missing, str):
            if isinstance(result, str):
                self.failed.setdefault(trial.network, f"from {trial.start}: {result}")
            else:
                self.found[trial] = result
                if not (path := path_of(self.config, trial)).is_file():
                    write_json(path, result)  # a worker elsewhere wrote to a disk of its own
            self._tell(f"{trial.network}, {trial.start}")
        self.networks = [n for n in self.networks if n.name not in self.failed]

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
        return min(tried, key=lambda rate: (tried[rate], rate))  # the lowest if all diverged

    def of(self, trial: Trial) -> Run:
        """Return a finished trial's run."""
        run = self.found[trial]["run"]
        losses = [math.inf if loss is None else loss for loss in run["losses"]]
        others = {name: _curve(curve) for name, curve in run.get("others", {}).items()}
        return Run(losses, _curve(run["scores"]), others)


def _curve(scores: list[list[Any]]) -> Curve:
    """Return what JSON has of a curve; its None is a score that is not finite."""
    return [(step, math.nan if value is None else value) for step, value in scores]


def _written(path: Path) -> dict[str, Any] | None:
    """Return what a file tells of a trial; None if there is none, or it is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found if "run" in found else None
    except (OSError, ValueError, TypeError):
        return None


def _untried(ledger: _Ledger) -> Iterator[Trial]:
    """Give the grid, and one rate further where the best so far lies on the edge."""
    for network in ledger.networks:
        for start in ledger.config.starts:
            tried = ledger.tried(network.name, start)
            rates = list(ledger.config.rates)
            if tried and len(rates) == 1:
                rates = []  # one rate is asked for, no search
            elif tried:
                best = ledger.best_rate(network.name, start)
                beyond = {min(tried): best / RATIO, max(tried): best * RATIO}
                rates = [float(f"{beyond[best]:.1e}")] if best in beyond else []
            for rate in rates:
                yield ledger.trial(network, start, rate, CHOICE_SEED)


def _claim(config: InitConfig, data: Data) -> None:
    """Write the settings of a run and its data's hashes, or check that they are the folder's."""
    path = runs_folder(config) / "settings.json"
    keys = (
        *("data", "test_data", "side", "flip", "shift", "scored_on", "source_steps"),
        *("steps", "batch", "context", "clip", "mixed_precision", "scored", "tests"),
    )
    wanted = {key: value for key, value in config.to_dict().items() if key in keys}
    hashes = [task.hash for task in (data.train, *data.tests)]
    wanted["content of the data"] = " ".join(hashes)
    if not path.is_file():
        write_json(path, wanted)
        return
    try:
        # Settings that the run did not know yet had their defaults.
        found = {**InitConfig().to_dict(), **json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove {config.out}") from error
    changed = [key for key in wanted if found.get(key) != wanted[key]]
    if changed:
        raise ConfigError(
            f"{config.out} holds results of other settings ({', '.join(changed)}); choose another "
            "out folder, or remove this one"
        )


def _collect(network: Network, config: InitConfig, ledger: _Ledger, data: Data) -> NetworkResult:
    rates = {start: ledger.best_rate(network.name, start) for start in config.starts}
    chosen = {
        start: [ledger.trial(network, start, rates[start], seed) for seed in config.seeds]
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
    words = ["ghn", "bench", "init"]
    for key, value in config.to_dict().items():
        if value == defaults[key] or key in ("type", "jobs", "ray"):
            continue
        flag = "--" + key.replace("_", "-")
        if value is True:
            words.append(flag)
            continue
        values = value if isinstance(value, list) else [value]
        words += [word for v in values for word in (flag, str(v))]
    return shlex.join(words)
