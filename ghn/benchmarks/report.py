"""The demo's report, and the picture of its curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ghn.benchmarks.outcome import STARTS, DemoResult, ModelResult, Start
from ghn.pages import (
    Cell,
    Details,
    Figure,
    Figures,
    Line,
    Points,
    Report,
    Table,
    facts_of,
    line_plot,
)
from ghn.pages.pictures import picture
from ghn.pages.plots import COLOURS, draw_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["demo_report", "draw_curves", "table_rows"]

COLOUR: dict[Start, str] = {"default": COLOURS[0], "predicted": COLOURS[1]}
STEP, LOSS, ACCURACY = "step", "training loss", "test accuracy, %"
COLUMNS = [
    "model",
    ">step 0, default",
    ">step 0, predicted",
    ">after training, default",
    ">after training, predicted",
    ">steps to default's final loss",
    ">seconds to predict",
]
LEGEND = (
    "Accuracy on test images, mean ± standard deviation over seeds. “never”: most seeds did not "
    "get there."
)


def table_rows(result: DemoResult) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the cells of the result's table, as text.

    A heading that starts with `>` belongs to a column of numbers.
    """
    return COLUMNS, [[cell.text for cell in _cells(m, result)] for m in result.models]


def _cells(model: ModelResult, result: DemoResult) -> list[Cell]:
    steps = result.config.steps
    reached = "never" if model.reached is None else f"{model.reached}"
    accuracies = [model.accuracy(start, place) for place in (0, -1) for start in STARTS]
    return [
        Cell(model.name, detail=_describe(model)),
        *[Cell(f"{100 * mean:.1f} % ± {100 * spread:.1f}", mean) for mean, spread in accuracies],
        # What never gets there sorts behind all that do.
        Cell(f"{reached} of {steps}", model.reached if model.reached is not None else 1e9),
        Cell(f"{model.prediction.seconds:.2f}", model.prediction.seconds),
    ]


def demo_report(result: DemoResult) -> Report:
    """Return the report of a demo."""
    report = Report(
        title="Predicted against default initialization",
        subtitle=f"ghn demo on {result.dataset}, {result.record.date}, {result.seconds:.0f} s",
        verdict=result.sentence,
        command=result.record.command,
        facts=facts_of(result.record.to_dict()),
    )
    report.add(
        Table(COLUMNS, [_cells(m, result) for m in result.models], caption=LEGEND),
        Figures(
            [figure for model in result.models for figure in _figures(model)],
            key={start: COLOUR[start] for start in STARTS},
            heading="Curves",
        ),
        Points(_method(result), heading="How it was measured"),
        Details("All numbers as JSON", result.to_dict()),
    )
    return report


def _describe(model: ModelResult) -> str:
    prediction = model.prediction
    total = prediction.predicted + sum(prediction.kept.values())
    kept = ", ".join(f"{n} {reason}" for reason, n in prediction.kept.items())
    return (
        f"{model.what}; {model.elements:,} parameters; {prediction.predicted} of {total} tensors "
        f"predicted" + (f", kept: {kept}" if kept else "")
    )


def _method(result: DemoResult) -> list[str]:
    config = result.config
    rates = "; ".join(
        f"{m.name}: default {m.rates['default']:g}, predicted {m.rates['predicted']:g}"
        for m in result.models
    )
    return [
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


def _lines(model: ModelResult) -> tuple[list[Line], list[Line]]:
    """Return training loss and test accuracy of both starts, one run a seed."""
    losses, accuracies = [], []
    for start in STARTS:
        runs = model.runs[start]
        window = max(1, len(runs[0].losses) // 20)
        smooth = [_trailing_mean(run.losses, window) for run in runs]
        losses.append(Line(start, range(1, len(smooth[0]) + 1), smooth, COLOUR[start]))
        tests = [step for step, _ in runs[0].scores]
        percent = [[100 * accuracy for _, accuracy in run.scores] for run in runs]
        accuracies.append(Line(start, tests, percent, COLOUR[start]))
    return losses, accuracies


def _figures(model: ModelResult) -> list[Figure]:
    losses, accuracies = _lines(model)
    over = "mean and range over seeds"
    return [
        Figure(line_plot(losses, STEP, LOSS), f"{model.name}: training loss, {over}"),
        Figure(line_plot(accuracies, STEP, ACCURACY), f"{model.name}: test accuracy, {over}"),
    ]


def draw_curves(result: DemoResult, path: Path) -> None:
    """Write the curves of all models as one picture, SVG or PNG by the path's ending."""
    count = len(result.models)
    with picture(path, (9.6, 2.9 * count)) as canvas:
        panels = canvas.subplots(count, 2, squeeze=False)
        for model, (left, right) in zip(result.models, panels, strict=True):
            losses, accuracies = _lines(model)
            _fill(left, losses, LOSS)
            _fill(right, accuracies, ACCURACY)
            left.set_title(model.name, loc="left", fontsize=10)
            left.legend(frameon=False, fontsize=9)


def _fill(axes: Axes, lines: Sequence[Line], label: str) -> None:
    draw_lines(axes, lines)
    axes.set_xlabel(STEP)
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def _trailing_mean(values: list[float], window: int) -> list[float]:
    return [
        sum(part) / len(part)
        for part in (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))
    ]
