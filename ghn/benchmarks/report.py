"""The demo's report: one HTML file that needs no network and follows the reader's light or dark.

Curves are drawn by matplotlib as SVG and put into the page; their lines carry a colour that both
themes show well, their text takes the page's own.
"""

from __future__ import annotations

import html
import io
import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ghn.benchmarks.outcome import STARTS, DemoResult, ModelResult, Start
from ghn.io import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["demo_report", "draw_curves", "table_rows"]

COLOURS: dict[Start, str] = {"default": "#8a8f98", "predicted": "#d9622b"}
TEXT = "#010203"  # stands for the page's text colour in the SVG

PAGE = string.Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>ghn demo: predicted against default initialization</title>
<style>
:root { --text: #1c1e21; --quiet: #5d6470; --back: #ffffff; --line: #d9dce1; --card: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --quiet: #a0a7b4; --back: #16181c; --line: #3a3f48; --card: #1f2228; }
}
body { margin: 2rem auto; max-width: 68rem; padding: 0 1.2rem; color: var(--text);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { font-size: 1.1rem; border-left: 4px solid $accent; padding: 0.4rem 0.9rem;
  background: var(--card); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.45rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
th { color: var(--quiet); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td small, .quiet { color: var(--quiet); font-size: 0.85rem; }
pre { background: var(--card); padding: 0.8rem; white-space: pre-wrap; word-break: break-word; }
figure { margin: 1.2rem 0; }
svg { max-width: 100%; height: auto; }
.key span { display: inline-block; width: 1.6rem; border-top: 3px solid; margin: 0 0.4rem 0 1rem;
  vertical-align: middle; }
</style>
</head>
<body>
<h1>Predicted against default initialization</h1>
<p class="quiet">$subtitle</p>
<p class="verdict">$sentence</p>
<div class="scroll"><table>
<thead>$head</thead>
<tbody>$body</tbody>
</table></div>
<p class="quiet">$legend</p>
<h2>Curves</h2>
<p class="key"><span style="border-color: $default"></span>default
<span style="border-color: $predicted"></span>predicted</p>
$figures
<h2>How it was measured</h2>
$method
<h2>Make it again</h2>
<pre>$command</pre>
<p class="quiet">$record</p>
<details><summary>All numbers as JSON</summary><pre>$numbers</pre></details>
</body>
</html>
"""
)

COLUMNS = [
    "model",
    ">step 0, default",
    ">step 0, predicted",
    ">after training, default",
    ">after training, predicted",
    ">steps to default's final loss",
    ">seconds to predict",
]


def table_rows(result: DemoResult) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the cells of the result's table, as text.

    A heading that starts with `>` belongs to a column of numbers.
    """
    rows = []
    for model in result.models:
        reached = "never" if model.reached is None else f"{model.reached}"
        rows.append(
            [
                model.name,
                *[
                    _percent(*model.accuracy(start, position))
                    for position in (0, -1)
                    for start in STARTS
                ],
                f"{reached} of {result.config.steps}",
                f"{model.prediction.seconds:.2f}",
            ]
        )
    return COLUMNS, rows


def _percent(mean: float, spread: float) -> str:
    return f"{100 * mean:.1f} % ± {100 * spread:.1f}"


def demo_report(result: DemoResult) -> str:
    """Return the report as one HTML text without references to anything outside."""
    columns, rows = table_rows(result)
    cells = [
        [f"{_text(row[0])}<br><small>{_text(_describe(model))}</small>", *map(_text, row[1:])]
        for model, row in zip(result.models, rows, strict=True)
    ]
    record = result.record
    machine = f"{record.machine['processor']}, {record.machine['cores']} cores"
    versions = ", ".join(f"{k} {v}" for k, v in record.versions.items())
    data = ", ".join(f"{k} {v}" for k, v in record.data.items())
    return PAGE.substitute(
        accent=COLOURS["predicted"],
        default=COLOURS["default"],
        predicted=COLOURS["predicted"],
        subtitle=_text(f"ghn demo on {result.dataset}, {record.date}, {result.seconds:.0f} s"),
        sentence=_text(result.sentence),
        head=_row("th", [_text(c.removeprefix(">")) for c in columns]),
        body="\n".join(_row("td", row) for row in cells),
        legend="Accuracy on test images, mean ± standard deviation over seeds. "
        "“never”: most seeds did not get there.",
        figures="\n".join(
            f"<figure><figcaption>{_text(m.name)}</figcaption>{_curves(m)}</figure>"
            for m in result.models
        ),
        method=_method(result),
        command=_text(record.command),
        record=_text(f"{machine}; {versions}; data: {data}."),
        numbers=_text(json.dumps(result.to_dict(), indent=1)),
    )


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def _row(tag: str, cells: list[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _describe(model: ModelResult) -> str:
    prediction = model.prediction
    total = prediction.predicted + sum(prediction.kept.values())
    kept = ", ".join(f"{n} {reason}" for reason, n in prediction.kept.items())
    return (
        f"{model.what}; {model.elements:,} parameters; {prediction.predicted} of {total} tensors "
        f"predicted" + (f", kept: {kept}" if kept else "")
    )


def _method(result: DemoResult) -> str:
    config = result.config
    rates = "; ".join(
        f"{m.name}: default {m.rates['default']:g}, predicted {m.rates['predicted']:g}"
        for m in result.models
    )
    points = [
        f"Both starts see the same batches of {config.batch} images in the same order, "
        f"{config.steps} steps of AdamW with warm-up over a tenth of them and a cosine to zero.",
        f"Each start chose its own peak learning rate from "
        f"{', '.join(f'{r:g}' for r in config.rates)} by the training loss of the last tenth on "
        f"seed {config.seeds[0]}. Chosen: {rates}.",
        f"Accuracy is taken on {config.test_images:,} test images, after BatchNorm statistics "
        "were estimated anew on the same training batches for both starts.",
        "Steps to the default's final loss: when the mean training loss of the last tenth falls "
        "to what the default start had at the end, median over seeds.",
        "Ahead or behind: all seeds agree, and the mean differs by at least one point.",
        f"Seeds {', '.join(map(str, config.seeds))} set the default initialization and the "
        f"order of the batches. Checkpoint: {result.models[0].prediction.checkpoint}.",
    ]
    return "<ul>" + "".join(f"<li>{_text(p)}</li>" for p in points) + "</ul>"


def _curves(model: ModelResult) -> str:
    """Draw training loss and test accuracy over steps, with the range over seeds shaded."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, str] = {
        "svg.fonttype": "none",
        "svg.hashsalt": model.name,
        "text.color": TEXT,
        "axes.labelcolor": TEXT,
        "axes.edgecolor": COLOURS["default"],
        "xtick.color": TEXT,
        "ytick.color": TEXT,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        _plot(model, *figure.subplots(1, 2))
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor")
    # Inside HTML the names of XML's vocabularies are known; without them no address is left.
    return re.sub(r'\s(?:xmlns(?::\w+)?)="[^"]*"', "", svg).replace("xlink:href", "href")


def _plot(model: ModelResult, loss: Axes, right: Axes) -> None:
    """Plot training loss and test accuracy of both starts, with the range over seeds shaded."""
    for start in STARTS:
        runs = model.runs[start]
        window = max(1, len(runs[0].losses) // 20)
        smooth = [_trailing_mean(run.losses, window) for run in runs]
        _band(loss, [*range(1, len(smooth[0]) + 1)], smooth, COLOURS[start], start)
        tests = [step for step, _ in runs[0].scores]
        percent = [[100 * a for _, a in run.scores] for run in runs]
        _band(right, tests, percent, COLOURS[start], start)
    loss.set_ylabel("training loss")
    right.set_ylabel("test accuracy, %")
    for axes in (loss, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)


def draw_curves(result: DemoResult, path: Path) -> None:
    """Write the curves of all models as one picture, SVG or PNG by the path's ending."""
    from matplotlib.figure import Figure

    count = len(result.models)
    figure = Figure(figsize=(9.6, 2.9 * count), layout="constrained", dpi=110)
    for model, (left, right) in zip(
        result.models, figure.subplots(count, 2, squeeze=False), strict=True
    ):
        _plot(model, left, right)
        left.set_title(model.name, loc="left", fontsize=10)
        left.legend(frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip(".") or "svg")


def _trailing_mean(values: list[float], window: int) -> list[float]:
    return [
        sum(part) / len(part)
        for part in (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))
    ]


def _band(axes: Axes, x: list[int], runs: list[list[float]], colour: str, label: str) -> None:
    def over_seeds(function: Callable[[tuple[float, ...]], float]) -> list[float]:
        return [function(values) for values in zip(*runs, strict=True)]

    axes.fill_between(x, over_seeds(min), over_seeds(max), color=colour, alpha=0.25, linewidth=0)
    axes.plot(x, over_seeds(lambda v: sum(v) / len(v)), color=colour, linewidth=1.8, label=label)
