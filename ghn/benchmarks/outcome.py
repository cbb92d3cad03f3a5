"""Settings and results of the demo: what was asked for, what was measured, what the numbers say."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any, Literal

from ghn.benchmarks.compare import Run, mean_and_spread, reach
from ghn.benchmarks.records import Record
from ghn.benchmarks.targets import TARGETS
from ghn.config import Config, check_distinct
from ghn.errors import ConfigError

__all__ = [
    "STARTS",
    "DemoConfig",
    "DemoResult",
    "ModelResult",
    "Prediction",
    "Start",
    "fast_config",
]

Start = Literal["default", "predicted"]
STARTS: tuple[Start, Start] = ("default", "predicted")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoConfig(Config):
    """Settings of the demo; the defaults take about four minutes on two cores.

    Attributes:
        dataset: `"cifar10"`, `"digits"`, or `"auto"` for CIFAR-10 where it is found.
        minutes: Time that `steps` is chosen to fit into, if `steps` is not given.
        steps: AdamW steps of each run; None to choose it.
        seeds: Seeds of the default initialization and of the order of the batches.
        rates: Learning rates that each start chooses from.
        batch: Images in a step.
        test_images: Images that accuracy is measured on.
        models: Names in `ghn.benchmarks.targets.TARGETS`.
        checkpoint: Checkpoint to predict from; None for the embedded default.
        jobs: Number of processes, each with one thread; 1 stays in this one.
    """

    dataset: str = "auto"
    minutes: float = 4.0
    steps: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    batch: int = 32
    test_images: int = 1000
    models: tuple[str, ...] = tuple(TARGETS)
    checkpoint: str | None = None
    jobs: int = 2

    def __post_init__(self) -> None:
        unknown = sorted(set(self.models) - set(TARGETS))
        if unknown or not self.models:
            raise ConfigError(f"models must be among {', '.join(TARGETS)}, got {self.models}")
        if not self.seeds or not self.rates:
            raise ConfigError("the demo needs at least one seed and one learning rate")
        check_distinct(models=self.models, seeds=self.seeds, rates=self.rates)
        if self.minutes <= 0 or (self.steps is not None and self.steps < 1):
            raise ConfigError(
                f"minutes and steps must be positive, got minutes={self.minutes}, "
                f"steps={self.steps}"
            )
        if self.jobs < 1 or self.batch < 2 or self.test_images < 1:
            raise ConfigError(
                "jobs and test_images must be at least 1 and batch at least 2, got "
                f"jobs={self.jobs}, test_images={self.test_images}, batch={self.batch}"
            )


def fast_config() -> DemoConfig:
    """Return settings that show in seconds that everything works; the numbers mean nothing."""
    return DemoConfig(
        dataset="digits",
        steps=8,
        seeds=(0, 1),
        rates=(3e-3,),
        batch=8,
        test_images=100,
        models=("mobilenetv3_small_050", "TinyDenseNet"),
        jobs=1,
    )


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What predicting one model's parameters gave.

    Attributes:
        seconds: Time of the call, tracing included, loading the checkpoint excluded.
        predicted: Number of parameters that were predicted.
        kept: Number of parameters that kept their own values, by reason.
        checkpoint: Name of the checkpoint.
    """

    seconds: float
    predicted: int
    kept: dict[str, int]
    checkpoint: str


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """Both starts of one model.

    Attributes:
        name: Name in `TARGETS`.
        what: What the model is.
        elements: Number of its parameters' elements.
        prediction: What the prediction covered; its time is the median over runs.
        rates: Learning rate that each start chose.
        runs: Runs at that rate, one a seed, in the order of the seeds.
    """

    name: str
    what: str
    elements: int
    prediction: Prediction
    rates: dict[Start, float]
    runs: dict[Start, list[Run]]

    def accuracy(self, start: Start, position: int) -> tuple[float, float]:
        """Mean and spread over seeds of the accuracy at a test: 0 is step 0, -1 the last."""
        return mean_and_spread([run.scores[position][1] for run in self.runs[start]])

    @property
    def reached(self) -> int | None:
        """Median over seeds of the predicted start's steps to the default's final loss.

        None if most seeds never get there.
        """
        steps = []
        for default, predicted in zip(self.runs["default"], self.runs["predicted"], strict=True):
            window = max(1, len(default.losses) // 10)
            found = reach(predicted.losses, default.final_loss, window)
            steps.append(math.inf if found is None else found)
        middle = statistics.median(steps)
        return None if math.isinf(middle) else round(middle)

    @property
    def verdict(self) -> Literal["ahead", "behind", "level"]:
        """Ahead or behind if all seeds agree on it and the mean differs by a point or more."""
        gains = [
            p.scores[-1][1] - d.scores[-1][1]
            for d, p in zip(self.runs["default"], self.runs["predicted"], strict=True)
        ]
        mean = statistics.fmean(gains)
        if abs(mean) < 0.01 or min(gains) * max(gains) <= 0:
            return "level"
        return "ahead" if mean > 0 else "behind"


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """All that the demo measured.

    Attributes:
        config: Settings, with the number of steps filled in.
        dataset: Data set that was read.
        models: One result a model.
        record: Command, seeds, machine, versions, data.
        seconds: Time of the whole demo.
    """

    config: DemoConfig
    dataset: str
    models: list[ModelResult]
    record: Record
    seconds: float

    @property
    def sentence(self) -> str:
        """What the numbers say, in one sentence."""
        by_verdict: dict[str, list[str]] = {}
        for model in self.models:
            by_verdict.setdefault(model.verdict, []).append(model.name)
        words = {
            "ahead": "the predicted start ends ahead of the default on {}",
            "behind": "the predicted start loses to the default on {}",
            "level": "no clear difference on {}",
        }
        parts = [words[v].format(", ".join(by_verdict[v])) for v in words if v in by_verdict]
        steps, seeds = self.config.steps, len(self.config.seeds)
        return f"After {steps} steps, {'; '.join(parts)} ({seeds} seeds each)."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types; losses that are not finite become null."""
        models = [
            {
                **dataclasses.asdict(m),
                "verdict": m.verdict,
                "reached": m.reached,
                "runs": {
                    start: [
                        {
                            "losses": [x if math.isfinite(x) else None for x in run.losses],
                            "accuracy": run.scores,
                        }
                        for run in runs
                    ]
                    for start, runs in m.runs.items()
                },
            }
            for m in self.models
        ]
        return {
            "config": self.config.to_dict(),
            "dataset": self.dataset,
            "sentence": self.sentence,
            "models": models,
            "record": self.record.to_dict(),
            "seconds": self.seconds,
        }
