"""`ghn bench mip`: every arm at every rate, and what the best rate of each gives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ghn.benchmarks.mip.arms import ARMS, Piece, Trained, constant_loss, initial_slope, train
from ghn.benchmarks.mip.outcome import MIPResult, TaskResult, best_rate
from ghn.benchmarks.mip.tasks import SIDE, TASKS
from ghn.benchmarks.workers import workers
from ghn.config import Config, check_distinct
from ghn.data import load_images
from ghn.errors import ConfigError
from ghn.io import append_line

__all__ = ["MIPConfig", "data_of", "run_mip"]

LADDER = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MIPConfig(Config):
    """Settings of `ghn bench mip`; the defaults take about half an hour on one core.

    Attributes:
        tasks: What is learned: beta-vae, rotation (scikit-learn's digits), denoising (MNIST).
        seeds: Seeds of every arm at every rate.
        rates: Learning rates of Adam that each arm chooses from, by validation loss; an arm whose
            best is the largest or the least of them is given further ones.
        steps: Steps of a run.
        tests: Number of times that validation loss is taken in a run.
        jobs: Number of processes.
        out: Folder of the runs; one that was interrupted goes on.
        results: Folder of mip.json, mip.md and mip.svg; default: out.
    """

    tasks: tuple[str, ...] = ("beta-vae", "rotation")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    steps: int = 1200
    tests: int = 24
    jobs: int = 1
    out: str = "runs/mip"
    results: str = ""

    def __post_init__(self) -> None:
        for task in self.tasks:
            TASKS[task]
        if not self.tasks or not self.seeds or not self.rates or min(self.rates) <= 0:
            raise ConfigError(f"a benchmark needs a task, a seed and positive rates, got {self}")
        check_distinct(tasks=self.tasks, seeds=self.seeds, rates=self.rates)
        if not 1 <= self.tests <= self.steps or self.jobs < 1:
            raise ConfigError(f"tests must lie in [1, steps] and jobs be 1 or more, got {self}")


def run_mip(
    config: MIPConfig, ticker: Callable[[float, float, str], None] | None = None
) -> MIPResult:
    """Train all arms and gather what they gave.

    Args:
        config: What to run.
        ticker: Called with runs done, runs in all, and a text.
    """
    file = Path(config.out) / "runs.jsonl"
    done = _read(file)
    wanted = {
        (task, arm): [Piece(task, arm, config.rates, config.seeds, config.steps, config.tests)]
        for task in config.tasks
        for arm in ARMS
    }
    with workers(config.jobs) as run_all:
        while left := [p for pieces in wanted.values() for p in pieces if p not in done]:
            for piece, runs in run_all(train, left):
                done[piece] = runs
                plain = [dataclasses.asdict(run) for run in runs]
                append_line(file, json.dumps({"piece": dataclasses.asdict(piece), "runs": plain}))
                every = [p for pieces in wanted.values() for p in pieces]
                if ticker is not None:
                    ticker(sum(p in done for p in every), len(every), f"{piece.task}, {piece.arm}")
            for pieces in wanted.values():
                rate = further_rate([run for piece in pieces for run in done[piece]])
                if rate is not None:
                    pieces.append(dataclasses.replace(pieces[0], rates=(rate,)))
    tasks = [
        TaskResult(
            name=task,
            constant=constant_loss(task),
            slopes={arm: [initial_slope(task, arm, seed) for seed in config.seeds] for arm in ARMS},
            runs={arm: [run for p in wanted[task, arm] for run in done[p]] for arm in ARMS},
        )
        for task in config.tasks
    ]
    return MIPResult(config.to_dict(), tasks)


def further_rate(runs: list[Trained]) -> float | None:
    """Return a rate beyond the best one, if that is the largest or the least that was tried.

    So the best rate of every arm lies between worse ones, unless the ladder ends.
    """
    best, tried = best_rate(runs), {run.rate for run in runs}
    above = [rate for rate in LADDER if rate > best]
    below = [rate for rate in LADDER if rate < best]
    if best == max(tried) and above:
        return above[0]
    return below[-1] if best == min(tried) and below else None


def data_of(config: MIPConfig) -> dict[str, str]:
    """Return the names and the digests of the data, for a record."""
    names = [TASKS[task].data for task in config.tasks]
    return {name: load_images(name, "test", SIDE).hash for name in names}


def _read(file: Path) -> dict[Piece, list[Trained]]:
    """Return what a file holds; a line that was cut off counts as not run."""
    found: dict[Piece, list[Trained]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        settings: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value["piece"].items()
        }
        found[Piece(**settings)] = [
            Trained(run["rate"], run["seed"], [(s, loss) for s, loss in run["curve"]], run["test"])
            for run in value["runs"]
        ]
    return found
