"""Results of `ghn bench mip`: each arm at its best rate, as a table, curves and JSON."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

from ghn.benchmarks.mip.arms import ARMS, Trained
from ghn.benchmarks.mip.tasks import TASKS
from ghn.io import atomic_path, write_json, write_text
from ghn.pages.markdown import markdown_table
from ghn.pages.plots import Line, draw_lines

__all__ = ["MIPResult", "TaskResult", "best_rate"]

COLUMNS = [
    "task",
    "arm",
    ">slope at the start",
    ">best rate",
    ">test loss",
    ">against default",
    ">steps",
]
NOTE = (
    "Slope: of the log of the emitted change over the log of the condition before training, least "
    "and largest over seeds. Best rate: by mean loss on validation data; it lies between worse "
    "ones. Test loss: at that rate, mean ± standard deviation over seeds. Steps: median over seeds "
    "until validation loss is that with which the default ends."
)


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """All runs of a task.

    Attributes:
        name: Name in `TASKS`.
        constant: Test loss of the best constant prediction.
        slopes: For each arm the slopes before training, one a seed.
        runs: For each arm one for each rate and seed.
    """

    name: str
    constant: float
    slopes: dict[str, list[float]]
    runs: dict[str, list[Trained]]

    def at(self, arm: str, rate: float) -> list[Trained]:
        """Return the runs of an arm at a rate, one a seed."""
        return [run for run in self.runs[arm] if run.rate == rate]

    def best(self, arm: str) -> tuple[float, list[Trained]]:
        """Return the rate with the least mean validation loss in the end, and its runs."""
        rate = best_rate(self.runs[arm])
        return rate, self.at(arm, rate)

    def test(self, arm: str) -> float:
        """Return the mean test loss of an arm at its best rate."""
        return statistics.fmean(run.test for run in self.best(arm)[1])

    def steps(self, arm: str) -> float:
        """Return the median of the steps to the default's final validation loss; may be inf."""
        level = statistics.fmean(run.val for run in self.best("default")[1])
        reached = [
            next((step for step, loss in run.curve if loss <= level), math.inf)
            for run in self.best(arm)[1]
        ]
        return float(statistics.median(reached))


@dataclasses.dataclass
class MIPResult:
    """What the benchmark gave.

    Attributes:
        config: Its settings.
        tasks: One for each task.
    """

    config: dict[str, Any]
    tasks: list[TaskResult]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells."""
        rows = []
        for task in self.tasks:
            for arm in ARMS:
                rate, runs = task.best(arm)
                tests, steps = [run.test for run in runs], task.steps(arm)
                spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
                rows.append(
                    [
                        task.name,
                        arm,
                        f"{min(task.slopes[arm]):.3f} to {max(task.slopes[arm]):.3f}",
                        f"{rate:g}",
                        f"{statistics.fmean(tests):.3f} ± {spread:.3f}",
                        f"{100 * task.test(arm) / task.test('default') - 100:+.1f} %",
                        "never" if math.isinf(steps) else f"{steps:.0f}",
                    ]
                )
            rows.append([task.name, "constant", "", "", f"{task.constant:.3f}", "", ""])
        return COLUMNS, rows

    def rates_table(self) -> tuple[list[str], list[list[str]]]:
        """Return the mean validation loss of each arm at each rate."""
        runs = [run for task in self.tasks for arm in ARMS for run in task.runs[arm]]
        rates = sorted({run.rate for run in runs})
        rows = [
            [
                task.name,
                arm,
                *(_mean([run.val for run in task.at(arm, rate)]) for rate in rates),
            ]
            for task in self.tasks
            for arm in ARMS
        ]
        return ["task", "arm", *(f">{rate:g}" for rate in rates)], rows

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types; losses that are not finite become null."""
        tasks = [
            {
                "name": task.name,
                "summary": TASKS[task.name].summary,
                "constant": task.constant,
                "slopes": task.slopes,
                "best": {arm: task.best(arm)[0] for arm in ARMS},
                "runs": [
                    {
                        "arm": arm,
                        "rate": run.rate,
                        "seed": run.seed,
                        "test": _finite(run.test),
                        "curve": [(step, _finite(loss)) for step, loss in run.curve],
                    }
                    for arm, runs in task.runs.items()
                    for run in runs
                ],
            }
            for task in self.tasks
        ]
        return {"config": self.config, "tasks": tasks}

    def write(self, folder: Path, record: dict[str, Any]) -> list[Path]:
        """Write `mip.json`, `mip.md` and `mip.svg`; return their paths."""
        paths = [folder / f"mip.{ending}" for ending in ("json", "md", "svg")]
        write_json(paths[0], {**self.to_dict(), "record": record})
        about = [f"- {task.name}: {TASKS[task.name].summary}." for task in self.tasks]
        lines = [
            "# Magnitude-invariant parametrization",
            "",
            *about,
            "",
            *markdown_table(*self.table()),
            "",
            NOTE,
            "",
            "Mean loss on validation data in the end, by rate:",
            "",
            *markdown_table(*self.rates_table()),
            "",
            f"Command: `{record['command']}`; {self.config['steps']} steps, seeds "
            f"{', '.join(map(str, self.config['seeds']))}.",
            "",
        ]
        write_text(paths[1], "\n".join(lines))
        self.draw(paths[2])
        return paths

    def draw(self, path: Path) -> None:
        """Draw the loss on validation data over steps, of each arm at its best rate."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6 * len(self.tasks), 3.1), layout="constrained")
        panels = figure.subplots(1, len(self.tasks), squeeze=False)[0]
        for axes, task in zip(panels, self.tasks, strict=True):
            lines = []
            for arm in ARMS:
                rate, runs = task.best(arm)
                steps = [step for step, _ in runs[0].curve]
                losses = [[loss for _, loss in run.curve] for run in runs]
                lines.append(Line(f"{arm}, rate {rate:g}", steps, losses))
            draw_lines(axes, lines)
            low = min(min(min(run) for run in line.runs) for line in lines)
            axes.set_ylim(0.97 * low, min(1.05 * task.constant, 1.8 * low))
            axes.set_title(task.name)
            axes.set_xlabel("step")
            axes.legend(frameon=False, fontsize=8)
        panels[0].set_ylabel("validation loss")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def best_rate(runs: list[Trained]) -> float:
    """Return the rate with the least mean validation loss in the end."""
    rates = dict.fromkeys(run.rate for run in runs)
    return min(
        rates, key=lambda rate: statistics.fmean(run.val for run in runs if run.rate == rate)
    )


def _mean(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f}" if values else ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
