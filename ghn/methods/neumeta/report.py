"""Results of a run: a table by width, a plot of scores against parameters, pictures, files."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from ghn.io import write_json, write_text
from ghn.methods.neumeta.tasks import Task
from ghn.pages import (
    Details,
    Figure,
    Figures,
    Image,
    Line,
    Report,
    Strip,
    Table,
    facts_of,
    line_key,
    line_plot,
    picture,
)
from ghn.pages.markdown import markdown_table, spread
from ghn.pages.plots import COLOURS, draw_lines, plain_numbers

__all__ = ["Result", "Row", "picture_name"]

X = "parameters, without those of a benchmark's body"
CAPTION = "by share of the full width, mean ± standard deviation over seeds"


@dataclasses.dataclass(frozen=True)
class Row:
    """One arm at one width with one seed.

    Attributes:
        arm: Its name.
        width: Share of the full width.
        seed: The seed.
        score: Over all of the data that is scored on; what it is, the task says.
        parameters: Of the network of that width, without its body.
        stored: Numbers that stand for the generated weights of all widths; 0 where each width has
            weights of its own.
        seconds: That it took; training counts for the first width.
    """

    arm: str
    width: float
    seed: int
    score: float
    parameters: int
    stored: int
    seconds: float


@dataclasses.dataclass
class Result:
    """What a run gave; see `ghn.methods.registry.Method`.

    Attributes:
        name: Short name, for folders.
        title: What was measured.
        task: What networks were trained for.
        rows: One for each arm, seed and width.
        folder: Where families and pictures are.
        files: Paths that were written.
    """

    name: str
    title: str
    task: Task
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
        """Return headings and cells: scores over seeds."""
        columns = ["arm", ">stored numbers", *(f">{100 * width:g}\u00a0%" for width in self.widths)]
        cells = [
            [
                arm,
                f"{groups[0][0].stored:,}" if groups[0][0].stored else "-",
                *(spread([row.score for row in group], self.task.digits) for group in groups),
            ]
            for arm, groups in self.by_arm().items()
        ]
        return columns, cells

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"title": self.title, "score": self.task.score, "rows": rows}

    @property
    def caption(self) -> str:
        """What the table shows."""
        return f"{self.task.score[:1].upper()}{self.task.score[1:]}, {CAPTION}."

    def write(self, folder: Path, record: dict[str, Any]) -> None:
        """Write `neumeta-NAME.json`, `.md`, `.svg`, `.html`, and pictures if any.

        Args:
            folder: Where to.
            record: Where the result comes from: command, machine, versions.
        """
        stem = folder / f"neumeta-{self.name.removesuffix('-test')}"
        write_json(stem.with_suffix(".json"), {**self.to_dict(), "record": record})
        columns, rows = self.table()
        lines = [
            *(f"# {self.title}", "", *markdown_table(columns, rows), "", self.caption, ""),
            *(f"Command: `{record['command']}`", ""),
            f"Machine: {json.dumps(record['machine'])}; versions: {json.dumps(record['versions'])}",
            "",
        ]
        write_text(stem.with_suffix(".md"), "\n".join(lines))
        self.draw(stem.with_suffix(".svg"))
        write_text(stem.with_suffix(".html"), self.report(record).to_html())
        self.files += [stem.with_suffix(end) for end in (".json", ".md", ".svg", ".html")]
        if self.pictures():
            pictures = stem.with_name(f"{stem.name}-pictures.png")
            self.draw_pictures(pictures)
            self.files.append(pictures)
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
        score = self.task.score
        many = len(lines) > len(COLOURS)  # colours alone would not tell them apart
        plot = line_plot(lines, X, score, legend=many)
        figure = Figure(plot, f"{score}, against {X}; bands: all seeds")
        report.add(
            Table(columns, rows, caption=self.caption, heading="Scores by width"),
            Figures([figure], key={} if many else line_key(lines), heading="Scores by size"),
        )
        images = [
            Image(path.read_bytes(), f"{arm}, {100 * width:g} % of the width")
            for (arm, width), path in self.pictures().items()
        ]
        if images:
            report.add(Strip(images, heading="What they do"))
        report.add(Details("All numbers", self.to_dict()))
        return report

    def _verdict(self) -> str:
        """Say what the arms have at the narrowest width."""
        scores = [
            f"{arm} {statistics.fmean(row.score for row in groups[0]):.{self.task.digits}f}"
            for arm, groups in self.by_arm().items()
        ]
        return (
            f"{self.task.score}, at {100 * self.widths[0]:g} % of the width: {', '.join(scores)}."
        )

    def pictures(self) -> dict[tuple[str, float], Path]:
        """Return pictures of the first seed by arm and width, from wide to narrow."""
        paths = {
            (arm, width): self.folder / picture_name(arm, self.rows[0].seed, width)
            for arm in self.by_arm()
            for width in reversed(self.widths)
        }
        return {key: path for key, path in paths.items() if path.exists()}

    def draw_pictures(self, path: Path) -> None:
        """Draw all pictures: a column for each arm, a row for each width."""
        from matplotlib.image import imread

        found = {key: imread(file) for key, file in self.pictures().items()}
        arms, widths = list(self.by_arm()), self.widths[::-1]
        height, width = next(iter(found.values())).shape[:2]
        size = (2.4 * len(arms) + 0.6, 2.4 * len(widths) * height / width + 0.4)
        with picture(path, size, dpi=150) as canvas:
            grid = canvas.subplots(len(widths), len(arms), squeeze=False)
            for axes, (share, arm) in zip(grid.flat, itertools.product(widths, arms), strict=True):
                axes.set(xticks=[], yticks=[], title=arm if share == widths[0] else "")
                axes.set_ylabel(f"{100 * share:g} %" if arm == arms[0] else "")
                if (arm, share) in found:
                    axes.imshow(found[arm, share])

    def lines(self) -> list[Line]:
        """Return scores against parameters, a line for each arm."""
        return [
            Line(
                label=arm,
                x=[group[0].parameters for group in groups],
                runs=list(zip(*([r.score for r in group] for group in groups), strict=True)),
                colour=COLOURS[place % len(COLOURS)],
            )
            for place, (arm, groups) in enumerate(self.by_arm().items())
        ]

    def draw(self, path: Path) -> None:
        """Draw scores against parameters."""
        with picture(path, (7.0, 4.4)) as figure:
            axes = figure.subplots()
            draw_lines(axes, self.lines())
            axes.set_xlabel(X)
            axes.set_ylabel(self.task.score)
            plain_numbers(axes)
            axes.legend(frameon=False, fontsize=8)


def picture_name(arm: str, seed: int, width: float) -> str:
    """Return the name of the file that shows what an arm does at a width."""
    return f"{arm}-{seed}-{width:g}.png"
