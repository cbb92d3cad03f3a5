"""Results of `ghn run bayesian`: a table of likelihoods and calibration, a picture, files."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghn.io import write_json, write_text
from ghn.methods.bayesian.tasks import TASKS
from ghn.pages import Details, Figure, Figures, Report, Table, facts_of, picture
from ghn.pages.markdown import markdown_table, spread
from ghn.pages.plots import COLOURS, figure_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Choice", "Result", "Row"]

COLUMNS = [
    *("task", "method", ">learned numbers", ">networks", ">nll", ">error or accuracy"),
    *(">calibration error", ">in the central 90 %"),
]
NOTE = (
    "Mean ± standard deviation over seeds. nll: of test data, in nats, targets of the regression "
    "at unit variance. Error (regression): root mean square, of targets of unit variance; accuracy "
    "and shares in percent. Definitions: `ghn/methods/bayesian/metrics.py`."
)

CHOSEN = "Chosen by the likelihood of validation data, on a split of its own"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a method chose on validation data.

    Attributes:
        task: Name of the task.
        method: Name of the method.
        settings: The best of those tried.
        steps: Steps, the best of four numbers.
        nll: Negative log-likelihood of the validation data.
        tried: Number of settings that were tried.
    """

    task: str
    method: str
    settings: dict[str, float]
    steps: int
    nll: float
    tried: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A method on a task with one seed.

    Attributes:
        task: Name of the task.
        method: Name of the method.
        seed: The seed.
        parameters: Learned numbers.
        networks: Networks that a prediction is a mean of.
        metrics: See `ghn.methods.bayesian.metrics`.
        reliability: Pairs (what is said, what is so).
    """

    task: str
    method: str
    seed: int
    parameters: int
    networks: int
    metrics: dict[str, float]
    reliability: list[tuple[float, float]]


@dataclasses.dataclass
class Result:
    """What a run gave; see `ghn.methods.registry.Method`.

    Attributes:
        name: Short name, for folders.
        config: Settings of the run.
        rows: One for each task, method and seed.
        choices: One for each task and method.
        files: Paths that were written.
    """

    name: str
    config: dict[str, Any]
    rows: list[Row]
    choices: list[Choice]
    files: list[Path] = dataclasses.field(default_factory=list)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(dict.fromkeys(choice.task for choice in self.choices))

    @property
    def title(self) -> str:
        """What was measured."""
        return "Networks drawn from noise"

    def of(self, choice: Choice) -> list[Row]:
        """Return the rows of a method on a task."""
        return [r for r in self.rows if (r.task, r.method) == (choice.task, choice.method)]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells."""
        cells = []
        for choice in self.choices:
            rows = self.of(choice)
            is_regression = "coverage" in rows[0].metrics
            cells.append(
                [
                    choice.task,
                    choice.method,
                    f"{rows[0].parameters:,}",
                    str(rows[0].networks),
                    spread([r.metrics["nll"] for r in rows], 3),
                    spread([r.metrics["score"] for r in rows], 3)
                    if is_regression
                    else spread([100 * r.metrics["score"] for r in rows], 1),
                    spread([100 * r.metrics["calibration"] for r in rows], 1),
                    spread([100 * r.metrics["coverage"] for r in rows], 1) if is_regression else "",
                ]
            )
        return COLUMNS, cells

    def chosen(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells of what was chosen on validation data."""
        cells = [
            [
                c.task,
                c.method,
                ", ".join(f"{name} {value:g}" for name, value in c.settings.items()),
                str(c.steps),
                f"{c.nll:.3f}",
                str(c.tried),
            ]
            for c in self.choices
        ]
        return ["task", "method", "settings", ">steps", ">nll there", ">settings tried"], cells

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            "title": self.title,
            "config": self.config,
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }

    def write(self, folder: Path, record: dict[str, Any]) -> None:
        """Write `bayesian.json`, `.md`, `.svg` and `.html`.

        Args:
            folder: Where to.
            record: Where the result comes from: command, machine, versions.
        """
        paths = [folder / f"bayesian.{ending}" for ending in ("json", "md", "svg", "html")]
        write_json(paths[0], {**self.to_dict(), "record": record})
        lines = [
            f"# {self.title}",
            "",
            *(f"- {task}: {TASKS[task].summary}." for task in self.config["tasks"]),
            "",
            *markdown_table(*self.table()),
            "",
            NOTE,
            "",
            f"{CHOSEN}:",
            "",
            *markdown_table(*self.chosen()),
            "",
            f"Command: `{record['command']}`; seeds {', '.join(map(str, self.config['seeds']))}.",
            "",
        ]
        write_text(paths[1], "\n".join(lines))
        self.draw(paths[2])
        write_text(paths[3], self.report(record).to_html())
        self.files += paths

    def report(self, record: dict[str, Any]) -> Report:
        """Return the report as a page.

        Args:
            record: As for `write`.
        """
        report = Report(
            title=self.title,
            subtitle="; ".join(f"{task}: {TASKS[task].summary}" for task in self.tasks),
            verdict=self._verdict(),
            command=record["command"],
            facts=facts_of(record),
        )
        figures = [
            Figure(
                figure_svg(functools.partial(self._panel, task=task)),
                f"{task}, a point for each seed; calibrated predictions lie on the line",
            )
            for task in self.tasks
        ]
        report.add(
            Table(
                *self.table(), caption=NOTE.replace("`", ""), heading="Likelihood and calibration"
            ),
            Figures(figures, heading="What is said against what is so"),
            Table(*self.chosen(), caption=CHOSEN, heading="Settings"),
            Details("All numbers", self.to_dict()),
        )
        return report

    def _verdict(self) -> str:
        """Name the method of the highest likelihood on each task."""
        found = []
        for task in self.tasks:
            means = {
                choice.method: statistics.fmean(row.metrics["nll"] for row in self.of(choice))
                for choice in self.choices
                if choice.task == task
            }
            best = min(means, key=means.__getitem__)
            found.append(f"{task}: {best} ({means[best]:.3f})")
        return f"Lowest mean negative log-likelihood of test data: {', '.join(found)}."

    def draw(self, path: Path) -> None:
        """Draw what is said against what is so; calibrated methods lie on the diagonal."""
        with picture(path, (3.6 * len(self.tasks), 3.4)) as figure:
            panels = figure.subplots(1, len(self.tasks), squeeze=False)[0]
            for axes, task in zip(panels, self.tasks, strict=True):
                self._panel(axes, task)
                axes.set_title(task)

    def _panel(self, axes: Axes, task: str) -> None:
        axes.plot([0, 1], [0, 1], color="#7a8290", linewidth=1)
        own = [choice for choice in self.choices if choice.task == task]
        for choice, colour in zip(own, COLOURS[1:], strict=False):
            rows = self.of(choice)
            for row in rows:
                label = choice.method if row is rows[0] else None
                said, so = zip(*row.reliability, strict=True)
                axes.plot(said, so, ".", color=colour, alpha=0.6, label=label)
        is_regression = "coverage" in self.of(own[0])[0].metrics
        axes.set_xlabel("level" if is_regression else "confidence")
        axes.set_ylabel("share below the quantile" if is_regression else "accuracy")
        axes.legend(frameon=False, fontsize=8)
