"""Results of a benchmark: a table, a picture of the matrices of accuracies, a report, files."""

from __future__ import annotations

import dataclasses
import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghn.io import write_json, write_text
from ghn.methods.continual.metrics import Metrics, metrics
from ghn.methods.continual.page import continual_report, mean_matrix
from ghn.pages.markdown import markdown_table, spread
from ghn.pages.pictures import picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Result", "Row"]

COLUMNS = [
    "method",
    ">parameters",
    ">average accuracy",
    ">when new",
    ">backward transfer",
    ">forgetting from best",
    ">first task",
    ">seconds",
]
ALONE = "separate"


@dataclasses.dataclass(frozen=True)
class Row:
    """One method with one seed.

    Attributes:
        method: Its name.
        seed: The seed.
        parameters: Learned numbers that the learner holds in the end.
        matrix: Accuracies, in percent; see `ghn.methods.continual.metrics`.
        seconds: Time spent on learning.
        settings: Those of the learner.
    """

    method: str
    seed: int
    parameters: int
    matrix: list[list[float]]
    seconds: float
    settings: dict[str, Any]

    def metrics(self, alone: list[float] | None = None) -> Metrics:
        """Return the summary of the matrix, in percent.

        Args:
            alone: What a network of its own reaches on each task, in percent, if it is known.
        """
        return metrics(self.matrix, alone=alone)


@dataclasses.dataclass
class Result:
    """What a run gave; see `ghn.methods.registry.Method`.

    Attributes:
        name: Short name, for folders.
        title: What was measured.
        rows: One for each method and seed.
        files: Paths that were written.
    """

    name: str
    title: str
    rows: list[Row]
    files: list[Path] = dataclasses.field(default_factory=list)

    def by_method(self) -> dict[str, list[Row]]:
        """Return the rows of each method."""
        methods = dict.fromkeys(row.method for row in self.rows)
        return {m: [row for row in self.rows if row.method == m] for m in methods}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and cells: means and standard deviations over seeds, in percent."""
        cells = []
        for method, rows in self.by_method().items():
            found = [row.metrics() for row in rows]
            cells.append(
                [
                    method,
                    f"{round(statistics.fmean(r.parameters for r in rows)):,}",
                    spread([m.average_accuracy for m in found]),
                    spread([m.learning_accuracy for m in found]),
                    spread([m.backward_transfer for m in found]),
                    spread([m.forgetting_from_best for m in found]),
                    spread([r.matrix[-1][0] for r in rows]),
                    f"{statistics.fmean(r.seconds for r in rows):.0f}",
                ]
            )
        return COLUMNS, cells

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types, with the metrics of each row that are known.

        Transfer to new tasks is known where `separate` was run with the same seed. Forward transfer
        never is: no task is scored before it is learned.
        """
        alone = {
            row.seed: [line[i] for i, line in enumerate(row.matrix)]
            for row in self.rows
            if row.method == ALONE
        }
        rows = []
        for row in self.rows:
            found = dataclasses.asdict(row.metrics(alone.get(row.seed)))
            known = {name: value for name, value in found.items() if value is not None}
            rows.append({**dataclasses.asdict(row), "metrics": known})
        return {"title": self.title, "rows": rows}

    def write(self, folder: Path, record: dict[str, Any]) -> None:
        """Write `continual-NAME.json`, `.md`, `.svg`, and `.html`, the report.

        Args:
            folder: Where to.
            record: Where the result comes from: command, machine, versions.
        """
        stem = folder / f"continual-{self.name.removesuffix('-test')}"
        write_json(stem.with_suffix(".json"), {**self.to_dict(), "record": record})
        columns, rows = self.table()
        lines = [
            f"# {self.title}",
            "",
            *markdown_table(columns, rows),
            "",
            "Percent; mean ± standard deviation over seeds. Definitions: "
            "`ghn/methods/continual/metrics.py`.",
            "",
            f"Command: `{record['command']}`",
            "",
            f"Machine: {json.dumps(record['machine'])}; versions: {json.dumps(record['versions'])}",
            "",
        ]
        write_text(stem.with_suffix(".md"), "\n".join(lines))
        self.draw(stem.with_suffix(".svg"))
        write_text(stem.with_suffix(".html"), continual_report(self, record).to_html())
        self.files += [stem.with_suffix(end) for end in (".json", ".md", ".svg", ".html")]

    def draw(self, path: Path) -> None:
        """Draw the mean matrix of accuracies of each method."""
        groups = self.by_method()
        low = min(min(min(row) for row in r.matrix) for r in self.rows)
        with picture(path, (2.6 * len(groups) + 0.8, 2.9)) as figure:
            panels = figure.subplots(1, len(groups), squeeze=False)[0]
            for axes, (method, rows) in zip(panels, groups.items(), strict=True):
                image = _draw_matrix(axes, [row.matrix for row in rows], low)
                axes.set_title(method, fontsize=9)
            panels[0].set_ylabel("after task")
            figure.colorbar(image, ax=list(panels), label="accuracy, %")


def _draw_matrix(axes: Axes, matrices: list[list[list[float]]], low: float) -> Any:
    mean = [[float("nan") if v is None else v for v in row] for row in mean_matrix(matrices)]
    axes.set_xlabel("on task")
    places = range(0, len(mean), max(1, len(mean) // 5))
    names = [str(i + 1) for i in places]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    return axes.imshow(mean, vmin=low, vmax=100.0, cmap="viridis")
