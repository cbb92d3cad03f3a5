"""Results of a scenario: a table, plots, a report with a film strip, files."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from ghn.io import write_json, write_text
from ghn.methods.hypercrl.film import Film
from ghn.pages import (
    Details,
    Figure,
    Figures,
    Image,
    Line,
    Report,
    Strip,
    Table,
    Text,
    facts_of,
    line_key,
    line_plot,
    picture,
)
from ghn.pages.markdown import markdown_table, spread
from ghn.pages.plots import COLOURS, draw_lines, plain_numbers

__all__ = ["Result", "Row"]

ABOUT = (
    "Model error: share of the variance of a step's changes that is not explained, on transitions "
    "by random actions that no learner saw. Ratio: error of the first task after the last one "
    "over its error when it was new. Return: mean over episodes, all learners from the same "
    "starts. Mean ± standard deviation over seeds. Seconds: the processor's, for learning all "
    "tasks. kB held: all that a learner keeps between tasks."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One method with one seed.

    Attributes:
        method: Its name.
        seed: The seed.
        parameters: Learned numbers that the learner holds in the end.
        scores: After each task, for each task so far: `error`, `returns`, `done` (share of episodes
            that reached their goal, if the scenario has one), `seconds` of playing.
        held: Bytes that the learner keeps, after each task.
        phases: Seconds of the processor by phase, for each task.
        settings: Those of the learner.
    """

    method: str
    seed: int
    parameters: int
    scores: list[dict[str, dict[str, Any]]]
    held: list[int]
    phases: list[dict[str, float]]
    settings: dict[str, Any]

    def error_ratio(self) -> float:
        """Return the first task's error after the last task, over that after the first."""
        first = next(iter(self.scores[0]))
        return self.scores[-1][first]["error"] / self.scores[0][first]["error"]

    def seconds(self) -> list[float]:
        """Return the processor's seconds of learning each task."""
        return [sum(phases.values()) for phases in self.phases]

    def last_return(self, task: str) -> float:
        """Return a task's mean return after the last task."""
        return statistics.fmean(self.scores[-1][task]["returns"])


@dataclasses.dataclass
class Result:
    """What a run gave; see `ghn.methods.registry.Method`.

    Attributes:
        name: Short name, for folders.
        title: What was measured.
        tasks: Names of the tasks, in order.
        changes: How far each task's steps differ at least from those of earlier tasks.
        rows: One for each method and seed.
        films: Film strips of the first method, by task.
        files: Paths that were written.
    """

    name: str
    title: str
    tasks: list[str]
    changes: dict[str, float]
    rows: list[Row]
    films: dict[str, Film] = dataclasses.field(default_factory=dict)
    files: list[Path] = dataclasses.field(default_factory=list)

    def by_method(self) -> dict[str, list[Row]]:
        """Return the rows of each method."""
        methods = dict.fromkeys(row.method for row in self.rows)
        return {m: [row for row in self.rows if row.method == m] for m in methods}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells."""
        goals = self.rows[0].scores[-1][self.tasks[0]]["done"] is not None
        columns = [
            "method",
            ">parameters",
            ">error when new",
            ">error at the end",
            ">ratio, task 1",
        ]
        columns += [f">return, {task}" for task in self.tasks]
        columns += [f">reached, {task}" for task in self.tasks] if goals else []
        columns += [">seconds", ">kB held"]
        cells = []
        for method, rows in self.by_method().items():
            last = [row.scores[-1] for row in rows]
            new = [_mean_new(row) for row in rows]
            line = [method, f"{rows[0].parameters:,}", spread(new, 3)]
            line.append(spread([_mean([s["error"] for s in one.values()]) for one in last], 3))
            line.append(spread([row.error_ratio() for row in rows], 2))
            line += [spread([row.last_return(task) for row in rows]) for task in self.tasks]
            if goals:
                line += [spread([100 * s[t]["done"] for s in last], 0) + " %" for t in self.tasks]
            line.append(f"{_mean([sum(row.seconds()) for row in rows]):.0f}")
            line.append(f"{_mean([row.held[-1] / 1000 for row in rows]):,.0f}")
            cells.append(line)
        return columns, cells

    def phases(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells of the seconds that each phase took, mean over seeds."""
        cells = []
        for method, rows in self.by_method().items():
            names = ("random", "planned", "fitting")
            means = [_mean([sum(p.get(n, 0.0) for p in r.phases) for r in rows]) for n in names]
            played = [sum(s["seconds"] for one in r.scores for s in one.values()) for r in rows]
            cells.append([method, *(f"{value:.1f}" for value in (*means, _mean(played)))])
        return ["method", ">random actions", ">planned actions", ">fitting", ">playing"], cells

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the films as plain JSON types."""
        return {
            "title": self.title,
            "tasks": self.tasks,
            "changes": self.changes,
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }

    def write(self, folder: Path, record: dict[str, Any]) -> None:
        """Write `hypercrl-NAME.json`, `.md`, `.svg`, and `.html`, the report.

        Args:
            folder: Where to.
            record: Where the result comes from: command, machine, versions.
        """
        stem = folder / f"hypercrl-{self.name}"
        write_json(stem.with_suffix(".json"), {**self.to_dict(), "record": record})
        write_text(stem.with_suffix(".md"), self._markdown(record))
        self._draw(stem.with_suffix(".svg"))
        write_text(stem.with_suffix(".html"), self.report(record).to_html())
        self.files += [stem.with_suffix(end) for end in (".json", ".md", ".svg", ".html")]

    def report(self, record: dict[str, Any]) -> Report:
        """Return the report as a page."""
        report = Report(
            title="Dynamics learned task after task",
            subtitle=self.title,
            verdict=self._verdict(),
            command=record["command"],
            facts=facts_of(record),
        )
        report.add(Table(*self.table(), caption=ABOUT, heading="After the last task"))
        key = line_key(self._lines()[0][0])
        report.add(Figures(self._figures(), key=key, heading="Task by task"))
        report.add(*self._films())
        report.add(
            Table(
                *self.phases(), caption="Seconds of the processor, mean over seeds.", heading="Time"
            )
        )
        report.add(Text(self._differences(), quiet=True))
        report.add(Details("All numbers", self.to_dict()))
        return report

    def _verdict(self) -> str:
        """Say what became of the first task's model."""
        ratios = [
            f"{method} {_mean([row.error_ratio() for row in rows]):.2f}"
            for method, rows in self.by_method().items()
        ]
        return (
            f"Error of the first task's model after all {len(self.tasks)} tasks, over its error "
            f"when it was new: {', '.join(ratios)}."
        )

    def _films(self) -> list[Strip | Text]:
        """Return a strip for each film, or why there is none."""
        heading = f"Episodes that {self.rows[0].method} plans, after all tasks"
        parts: list[Strip | Text] = []
        for task, film in self.films.items():
            if isinstance(film, str):
                parts.append(Text(f"Task “{task}”: {film}", heading=heading, quiet=True))
            else:
                parts.append(Strip([Image(film, f"Task “{task}”")], heading=heading))
            heading = ""
        return parts

    def _figures(self) -> list[Figure]:
        return [
            Figure(
                line_plot(lines, "tasks learned", label, log_y=log), label[0].upper() + label[1:]
            )
            for lines, label, log in self._lines()
        ]

    def _draw(self, path: Path) -> None:
        """Draw the error of the first task, the time of each task, and what is kept."""
        with picture(path, (11.0, 3.2)) as figure:
            panels = figure.subplots(1, 3)
            for axes, (lines, label, log) in zip(panels, self._lines(), strict=True):
                draw_lines(axes, lines)
                axes.set_xlabel("tasks learned")
                axes.set_ylabel(label)
                plain_numbers(axes, log_y=log)
                axes.set_ylim(bottom=None if log else 0)
                axes.set_xticks(lines[0].x)
            panels[0].legend(frameon=False, fontsize=8)

    def _lines(self) -> list[tuple[list[Line], str, bool]]:
        """Return lines over tasks: what they show, the axis' name, whether it is logarithmic."""
        x = list(range(1, len(self.tasks) + 1))
        first = self.tasks[0]
        errors, times, held = [], [], []
        for place, (method, rows) in enumerate(self.by_method().items()):
            colour = COLOURS[place % len(COLOURS)]
            runs = [[score[first]["error"] for score in row.scores] for row in rows]
            errors.append(Line(method, x, runs, colour))
            times.append(Line(method, x, [row.seconds() for row in rows], colour))
            held.append(Line(method, x, [[b / 1000 for b in row.held] for row in rows], colour))
        return [
            (errors, "model error of task 1", True),
            (times, "seconds to learn the task", False),
            (held, "kept between tasks, kB", True),
        ]

    def _differences(self) -> str:
        parts = [f"{name} {100 * change:.0f} %" for name, change in self.changes.items()]
        return f"One step differs from those of earlier tasks by at least: {', '.join(parts)}."

    def _markdown(self, record: dict[str, Any]) -> str:
        lines = [
            f"# {self.title}",
            "",
            *markdown_table(*self.table()),
            "",
            ABOUT,
            "",
            self._differences(),
            "",
            "Seconds of the processor, mean over seeds:",
            "",
            *markdown_table(*self.phases()),
            "",
            f"Command: `{record['command']}`",
            "",
            f"Machine: {json.dumps(record['machine'])}; versions: "
            f"{json.dumps({**record['versions'], **record.get('data', {})})}",
            "",
        ]
        return "\n".join(lines)


def _mean_new(row: Row) -> float:
    """Return the mean over tasks of the error when the task was new."""
    return _mean([list(score.values())[-1]["error"] for score in row.scores])


def _mean(values: list[float]) -> float:
    return statistics.fmean(values)
