"""Results of the initialization benchmark and what they say: gains, intervals, steps saved."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from scipy import stats

from ghn.benchmarks.compare import Run
from ghn.benchmarks.init.config import InitConfig
from ghn.benchmarks.records import Record
from ghn.pages.page import finite_json

__all__ = ["Gain", "InitResult", "NetworkResult", "Summary", "bootstrap", "steps_to"]

DRAWS = 20_000
# What counts as worse: a point of accuracy, or a hundredth of a bit per byte.
MARGIN = 0.01

Verdict = Literal["win", "tie", "loss"]


def bootstrap(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the bootstrap interval of the mean, its percentiles widened for few values.

    Plain percentiles of three values leave out the true mean in one case of four. Widened ones
    follow Student's t; of fewer than five values they are the smallest and the largest. A single
    value says nothing of its spread: its interval is the whole line.

    Source: Hesterberg, What teachers should know about the bootstrap (2014, arXiv 1411.5279), the
    expanded percentile interval.
    """
    data = np.asarray(values, dtype=float)
    count = len(data)
    if count < 2:
        return -math.inf, math.inf
    wide = math.sqrt(count / (count - 1)) * stats.t.ppf((1 + level) / 2, count - 1)
    tail = statistics.NormalDist().cdf(-wide)
    picks = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    low, high = np.quantile(data[picks].mean(1), [tail, 1 - tail])
    return float(low), float(high)


def steps_to(scores: Sequence[tuple[int, float]], goal: float, sign: float) -> float:
    """Return after how many steps a curve first meets a goal, between scores along a line.

    Args:
        scores: Pairs (step, score), ascending.
        goal: Score to meet.
        sign: +1 if more is better, -1 if less is.

    Returns:
        Steps; infinite if the curve never meets it. Scores that are not finite meet none.
    """
    before: tuple[int, float] | None = None
    for step, value in scores:
        if not math.isfinite(value):
            continue
        if sign * value >= sign * goal:
            if before is None:
                return float(step)
            share = (goal - before[1]) / (value - before[1])
            return before[0] + share * (step - before[0])
        before = step, value
    return math.inf


@dataclasses.dataclass(frozen=True)
class Gain:
    """One start of one network against the first start.

    Attributes:
        mean: Mean over seeds of the final score's gain; positive is better, whatever the metric.
            It is nan if a run diverged, of either start.
        low: Lower end of its 95 % bootstrap interval; both ends are infinite for one seed. A start
            with runs that diverged, when all of the first start's did not, has lost.
        high: Upper end.
        reach: Steps until the mean curve meets the first start's final mean score, in units of the
            run's steps; infinite if it never does.
    """

    mean: float
    low: float
    high: float
    reach: float

    @property
    def verdict(self) -> Verdict:
        """Win or loss if the interval leaves out 0."""
        return "win" if self.low > 0 else "loss" if self.high < 0 else "tie"

    @property
    def worse(self) -> bool:
        """Whether the interval lies below the margin: a point of accuracy."""
        return self.high < -MARGIN


@dataclasses.dataclass(frozen=True)
class NetworkResult:
    """One network.

    Attributes:
        name: Full name.
        group: What it is summed up with.
        parameters: Number of elements.
        metric: `"accuracy"` or `"bits per byte"`.
        rates: Learning rate that each start chose.
        tried: Final training loss by start and rate, on the seed for choices.
        runs: Runs at the chosen rate by start, one a seed.
        notes: What each start said of itself.
    """

    name: str
    group: str
    parameters: int
    metric: str
    rates: dict[str, float]
    tried: dict[str, dict[float, float]]
    runs: dict[str, list[Run]]
    notes: dict[str, dict[str, Any]]

    @property
    def sign(self) -> float:
        """+1 if more is better."""
        return 1.0 if self.metric == "accuracy" else -1.0

    def scored_on(self, name: str) -> NetworkResult:
        """Return the same network as scored on further test data."""
        runs = {
            start: [Run(run.losses, run.others[name]) for run in runs]
            for start, runs in self.runs.items()
        }
        return dataclasses.replace(self, runs=runs)

    def curve(self, start: str) -> list[tuple[int, float]]:
        """Return the mean score over seeds at each step where it was taken."""
        runs = self.runs[start]
        steps = [step for step, _ in runs[0].scores]
        return [
            (step, statistics.fmean(run.scores[i][1] for run in runs))
            for i, step in enumerate(steps)
        ]

    def gain(self, start: str, base: str) -> Gain:
        """Compare a start with another one, seed by seed."""
        ours, theirs = self.finals(start), self.finals(base)
        curve, goal = self.curve(start), self.curve(base)[-1]
        reach = steps_to(curve, goal[1], self.sign) / max(goal[0], 1)
        diverged = [self.diverged(start), self.diverged(base)]
        if any(diverged):
            low = -math.inf if diverged[0] else math.inf
            high = math.inf if diverged[1] else -math.inf
            return Gain(math.nan, low, high, reach)
        gains = [self.sign * (a - b) for a, b in zip(ours, theirs, strict=True)]
        return Gain(statistics.fmean(gains), *bootstrap(gains), reach)

    def diverged(self, start: str) -> bool:
        """Whether a run of a start ended with a loss or a score that is not finite.

        A classifier whose outputs are not numbers still has an accuracy, that of one class.
        """
        runs = self.runs[start]
        losses = [run.final_loss for run in runs if run.losses]
        return not all(map(math.isfinite, [*losses, *self.finals(start)]))

    def on_edge(self, start: str) -> bool:
        """Whether the rate that a start chose is the lowest or the highest of several tried."""
        tried = self.tried[start]
        return len(tried) > 1 and self.rates[start] in (min(tried), max(tried))

    def finals(self, start: str) -> list[float]:
        """Return the final score of each seed."""
        return [run.scores[-1][1] for run in self.runs[start]]


@dataclasses.dataclass(frozen=True)
class Summary:
    """One start over a group of networks.

    Attributes:
        group: Name of the group, or `"all"`.
        start: The start.
        networks: How many.
        first: Mean score at step 0.
        final: Mean final score.
        wins: How many networks it wins.
        losses: How many it loses.
        worse: How many it makes worse by more than the margin.
        gain: Mean gain over the networks on which neither start diverged; nan if there is none.
        low: Lower end of its 95 % bootstrap interval over networks.
        high: Upper end.
        reach: Median over networks of `Gain.reach`.
        rate: Median over networks of the learning rate that the start chose: the one to begin with.
    """

    group: str
    start: str
    networks: int
    first: float
    final: float
    wins: int
    losses: int
    worse: int
    gain: float
    low: float
    high: float
    reach: float
    rate: float


@dataclasses.dataclass(frozen=True)
class InitResult:
    """All that the benchmark measured.

    Attributes:
        config: Settings.
        networks: One result a network.
        record: Command, seeds, machine, versions, data.
        scored: Number of images or excerpts that a score was taken on, by the test data's names.
        failed: Networks that could not be trained, by name, with reasons.
    """

    config: InitConfig
    networks: list[NetworkResult]
    record: Record
    scored: dict[str, int]
    failed: dict[str, str]

    def others(self) -> dict[str, InitResult]:
        """Return the same result as scored on each of the further test data, by their names."""
        first = next(iter(self.networks[0].runs.values()))
        return {
            name: dataclasses.replace(self, networks=[n.scored_on(name) for n in self.networks])
            for name in first[0].others
        }

    def summaries(self) -> list[Summary]:
        """Sum up every start over every group, and over all networks."""
        groups: dict[str, list[NetworkResult]] = {}
        for network in self.networks:
            groups.setdefault(network.group, []).append(network)
        if len(groups) > 1:
            groups["all"] = self.networks
        return [
            self._summary(group, start, members)
            for group, members in groups.items()
            for start in self.config.starts
        ]

    def _summary(self, group: str, start: str, members: list[NetworkResult]) -> Summary:
        gains = [n.gain(start, self.config.starts[0]) for n in members]
        curves = [n.curve(start) for n in members]
        finite = [g.mean for g in gains if math.isfinite(g.mean)]
        low, high = bootstrap(finite) if finite else (math.nan, math.nan)
        return Summary(
            group=group,
            start=start,
            networks=len(members),
            first=statistics.fmean(c[0][1] for c in curves),
            final=statistics.fmean(c[-1][1] for c in curves),
            wins=sum(g.verdict == "win" for g in gains),
            losses=sum(g.verdict == "loss" for g in gains),
            worse=sum(g.worse for g in gains),
            gain=statistics.fmean(finite) if finite else math.nan,
            low=low,
            high=high,
            reach=statistics.median(g.reach for g in gains),
            rate=statistics.median_low(n.rates[start] for n in members),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types; what is infinite is None."""
        networks = []
        for network in self.networks:
            entry = dataclasses.asdict(network)
            entry["gains"] = self._gains(network)
            for runs in entry["runs"].values():
                for run in runs:
                    del run["losses"]  # in the folder of the runs
            networks.append(entry)
        return finite_json(
            {
                "config": self.config.to_dict(),
                "summary": [dataclasses.asdict(s) for s in self.summaries()],
                "networks": networks,
                "others": {
                    name: {
                        "summary": [dataclasses.asdict(s) for s in other.summaries()],
                        "gains": {n.name: self._gains(n) for n in other.networks},
                    }
                    for name, other in self.others().items()
                },
                "failed": self.failed,
                "record": self.record.to_dict(),
            }
        )

    def _gains(self, network: NetworkResult) -> dict[str, Any]:
        base, *starts = self.config.starts
        return {start: dataclasses.asdict(network.gain(start, base)) for start in starts}
