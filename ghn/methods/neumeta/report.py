"""Results of a run: a table by width, a plot of accuracy against parameters, files."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from ghn.io import write_json, write_text
from ghn.pages import (
    Details,
    Figure,
    Figures,
    Line,
    Report,
    Table,
    facts_of,
    line_key,
    line_plot,
    picture,
)
from ghn.pages.markdown import markdown_table
from ghn.pages.plots import COLOURS, draw_lines, plain_numbers

__all__ = ["Result", "Row"]

X, Y = "parameters of the resized part", "accuracy, %"
CAPTION = "Accuracy in percent by share of the full width, mean ± standard deviation over seeds."


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm at one width with one seed.

    Attributes:
        arm: Its name.
        width: Share of the full width.
        seed: The seed.
        accuracy: In percent, over all of the data that is scored on.
        parameters: Of the network of that width, without its body.
        stored: Numbers that stand for the generated weights of all widths; 0 where each width has
            weights of its own.
        seconds: That it took; training counts for the first width.
    """

    arm: str
    width: float
    seed: int
    accuracy: float
    parameters: int
    stored: int
    seconds: float


@dataclasses.dataclass
class Result:
    """What a run gave; see `ghn.methods.registry.Method`.

    Attributes:
        name: Short name, for folders.
        title: What was measured.
        rows: One for each arm, seed and width.
        folder: Where families are.
        files: Paths that were written.
    """

    name: str
    title: str
    rows: list[Row]
    folder: Path
    files: list[Path] = dataclasses.field(default_factory=list)

    @property
    def widths(self) -> list[float]:
        """All widths, from narrow to wide."""
        return sorted({row.width for row in self.rows})

    def by_arm(self) -> dict[str, list[list[Row]]]:
        """Return the rows of each arm: a list of seeds for each width."""
        arms = dict.fromkeys(row.arm for row in self.rows)
        return {
            arm: [[r for r in self.rows if (r.arm, r.width) == (arm, w)] for w in self.widths]
            for arm in arms
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells: accuracies in percent, over seeds."""
        columns = ["arm", ">stored numbers", *(f">{100 * width:g}\u00a0%" for width in self.widths)]
        cells = [
            [
                arm,
                f"{groups[0][0].stored:,}" if groups[0][0].stored else "-",
                *(_spread([row.accuracy for row in group]) for group in groups),
            ]
            for arm, groups in self.by_arm().items()
        ]
        return columns, cells

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {"title": self.title, "rows": [dataclasses.asdict(row) for row in self.rows]}

    def write(self, folder: Path, record: dict[str, Any]) -> None:
        """Write `results.json`, `results.md`, `accuracy.svg` and `report.html`.

        Args:
            folder: Where to.
            record: Where the result comes from: command, machine, versions.
        """
        write_json(folder / "results.json", {**self.to_dict(), "record": record})
        columns, rows = self.table()
        lines = [
            *(f"# {self.title}", "", *markdown_table(columns, rows), "", CAPTION, ""),
            *(f"Command: `{record['command']}`", ""),
            f"Machine: {json.dumps(record['machine'])}; versions: {json.dumps(record['versions'])}",
            "",
        ]
        write_text(folder / "results.md", "\n".join(lines))
        self.draw(folder / "accuracy.svg")
        write_text(folder / "report.html", self.report(record).to_html())
        names = ("results.json", "results.md", "accuracy.svg", "report.html")
        self.files += [folder / name for name in names]
        self.files += sorted(self.folder.glob("*.safetensors"))

    def report(self, record: dict[str, Any]) -> Report:
        """Return the report as a page."""
        columns, rows = self.table()
        lines = self.lines()
        report = Report(
            title="Networks of any width",
            subtitle=self.title,
            verdict=self._verdict(),
            command=record["command"],
            facts=facts_of(record),
        )
        figure = Figure(line_plot(lines, X, Y), f"{Y.capitalize()}, against {X}; bands: all seeds")
        report.add(
            Table(columns, rows, caption=CAPTION, heading="Accuracy by width"),
            Figures([figure], key=line_key(lines), heading="Accuracy by size"),
            Details("All numbers", self.to_dict()),
        )
        return report

    def _verdict(self) -> str:
        """Say what the arms have at the narrowest width."""
        accuracies = [
            f"{arm} {statistics.fmean(row.accuracy for row in groups[0]):.1f} %"
            for arm, groups in self.by_arm().items()
        ]
        return f"At {100 * self.widths[0]:g} % of the width: {', '.join(accuracies)}."

    def lines(self) -> list[Line]:
        """Return accuracy against parameters, a line for each arm."""
        return [
            Line(
                label=arm,
                x=[group[0].parameters for group in groups],
                runs=list(zip(*([r.accuracy for r in group] for group in groups), strict=True)),
                colour=COLOURS[place % len(COLOURS)],
            )
            for place, (arm, groups) in enumerate(self.by_arm().items())
        ]

    def draw(self, path: Path) -> None:
        """Draw accuracy against parameters."""
        with picture(path, (7.0, 4.4)) as figure:
            axes = figure.subplots()
            draw_lines(axes, self.lines())
            axes.set_xlabel(X)
            axes.set_ylabel(Y)
            plain_numbers(axes)
            axes.legend(frameon=False, fontsize=8)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
