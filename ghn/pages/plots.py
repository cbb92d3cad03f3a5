"""Plots for reports: SVG that takes the page's own text colour, so that it fits light and dark.

Drawn by matplotlib at the size that they are shown at, so that their text stays readable; a report
lets them flow below each other on a narrow screen.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ghn.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "Line",
    "bar_plot",
    "draw_lines",
    "figure_svg",
    "line_key",
    "line_plot",
    "matrix_plot",
    "plain_numbers",
]

# At least 3 : 1 against both the light and the dark page, and told apart by the colour-blind.
COLOURS = ("#7a8290", "#d9622b", "#3b82c4", "#2f9e6b", "#a563c9", "#b08a1e")
TEXT = "#010203"  # stands for the page's text colour until the SVG is written
MARKED = (("o", "-"), ("s", "--"), ("^", ":"))  # lines of one colour
SIZE = (4.6, 3.1)  # inches
LARGE = 10_000  # from here on numbers of an axis have their thousands apart

Numbers = Sequence[float] | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a plot, from one or more runs.

    Attributes:
        label: What it shows.
        x: Places of the points.
        runs: One list of values a run, each as long as `x`. The line is their mean, the band
            around it their range.
        colour: Colour as `#rrggbb`; the next of `COLOURS` if empty.
    """

    label: str
    x: Numbers
    runs: Sequence[Numbers]
    colour: str = ""

    def __post_init__(self) -> None:
        if not self.runs or any(len(run) != len(self.x) for run in self.runs):
            lengths = [len(run) for run in self.runs]
            raise ShapeError(
                f"line {self.label!r} needs runs of {len(self.x)} values, one for each x, got "
                f"lengths {lengths}"
            )


def line_plot(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    legend: bool = False,
) -> str:
    """Return lines over a common axis, with the range over runs shaded.

    Args:
        lines: What to draw.
        x_label: Name and unit of the horizontal axis.
        y_label: Name and unit of the vertical axis.
        log_x: Whether the horizontal axis is logarithmic.
        log_y: Whether the vertical axis is logarithmic.
        legend: Whether the plot names its lines itself; a report's `Figures(key=...)` can do it
            for several plots at once.
    """
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        draw_lines(axes, lines)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        plain_numbers(axes, log_x=log_x, log_y=log_y)
        if not log_x and all(isinstance(x, int) for line in lines for x in line.x):
            few = max(x for line in lines for x in line.x) >= LARGE  # wide numbers, fewer of them
            axes.xaxis.set_major_locator(MaxNLocator(5 if few else 10, integer=True))
        if legend:
            many = len(lines) > len(COLOURS)
            axes.legend(frameon=False, fontsize=7 if many else 9, ncols=2 if many else 1)

    return figure_svg(draw)


def line_key(lines: Sequence[Line]) -> dict[str, str]:
    """Return what each line shows and its colour, for the key of several figures."""
    return dict(zip([line.label for line in lines], _colours(lines), strict=True))


def plain_numbers(axes: Axes, *, log_x: bool = False, log_y: bool = False) -> None:
    """Write an axis' numbers as people do: 20,000 and 0.05, not 20000 and 5 x 10 to the -2."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    for name, axis, is_log in (("x", axes.xaxis, log_x), ("y", axes.yaxis, log_y)):
        low, high = axis.get_data_interval()
        if is_log:
            axes.set(**{f"{name}scale": "log"})
            decades = math.log10(high / low) if low > 0 else 2.0
            steps = (1.0, 2.0, 5.0) if decades < 2 else (1.0,)
            axis.set_major_locator(LogLocator(subs=steps, numticks=12))
            axis.set_minor_formatter(NullFormatter())
        if is_log or max(-low, high) >= LARGE:
            axis.set_major_formatter(plain)


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw lines into axes, each with the range over its runs shaded.

    Of lines that share a colour, the first is solid, the next ones are dashed and dotted.
    """
    drawn: Counter[str] = Counter()
    for line, colour in zip(lines, _colours(lines), strict=True):
        columns = list(zip(*line.runs, strict=True))
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        mean = [sum(c) / len(c) for c in columns]
        if len(line.runs) > 1:
            axes.fill_between(line.x, low, high, color=colour, alpha=0.25, linewidth=0)
        marker, style = MARKED[drawn[colour] % len(MARKED)]
        drawn[colour] += 1
        axes.plot(
            *(line.x, mean, style),
            color=colour,
            linewidth=1.8,
            label=line.label,
            marker=marker if len(line.x) <= 12 else None,
            markersize=4,
        )


def bar_plot(
    groups: Sequence[str],
    bars: Sequence[tuple[str, Numbers, Numbers | None]],
    y_label: str,
) -> str:
    """Return bars side by side in groups.

    Args:
        groups: Names on the horizontal axis, such as models.
        bars: For each kind of bar its label, one value a group, and, where known, one spread a
            group, drawn as a line up and down.
        y_label: Name and unit of the vertical axis.
    """
    for label, values, spreads in bars:
        if any(len(s) != len(groups) for s in (values, spreads or values)):
            raise ShapeError(f"bars {label!r} need {len(groups)} values, one for each group")

    def draw(axes: Axes) -> None:
        width = 0.8 / len(bars)
        for place, (label, values, spreads) in enumerate(bars):
            x = [i - 0.4 + width * (place + 0.5) for i in range(len(groups))]
            axes.bar(
                x,
                values,
                width=0.9 * width,
                yerr=spreads,
                label=label,
                color=COLOURS[place % len(COLOURS)],
                error_kw={"ecolor": TEXT, "elinewidth": 1},
            )
        axes.set_xticks(range(len(groups)), groups)
        if max(map(len, groups), default=0) * len(groups) > 40:
            axes.tick_params(axis="x", rotation=30)
            for tick in axes.get_xticklabels():
                tick.set_horizontalalignment("right")
        axes.set_ylabel(y_label)
        axes.legend(frameon=False, fontsize=9)

    return figure_svg(draw)


def matrix_plot(
    values: Sequence[Sequence[float | int | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    x_label: str,
    y_label: str,
    form: str = "{:.0f}",
    limits: tuple[float, float] | None = None,
) -> str:
    """Return a matrix of numbers in shaded squares, such as accuracy by task and time.

    Args:
        values: One list a row; None leaves a square empty.
        rows: Names of the rows, from the top.
        columns: Names of the columns.
        x_label: What the columns are.
        y_label: What the rows are.
        form: How a number is written; empty to leave numbers out.
        limits: Values of the lightest and of the darkest square, so that several matrices can be
            compared; by default the smallest and the largest.
    """
    if len(values) != len(rows) or any(len(row) != len(columns) for row in values):
        raise ShapeError(f"the matrix needs {len(rows)} rows of {len(columns)} values")
    known = [v for row in values for v in row if v is not None]
    low, high = limits or (min(known, default=0.0), max(known, default=1.0))

    def draw(axes: Axes) -> None:
        from matplotlib.patches import Rectangle

        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if value is None:
                    continue
                share = (value - low) / (high - low) if high > low else 1.0
                square = Rectangle(
                    (j - 0.48, i - 0.48), 0.96, 0.96, color=COLOURS[1], alpha=0.06 + 0.44 * share
                )
                axes.add_patch(square)
                axes.text(j, i, form.format(value), ha="center", va="center", fontsize=9)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)

    return figure_svg(draw)


def figure_svg(draw: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> str:
    """Return what a function draws, as SVG for a page.

    Args:
        draw: Draws into the axes that it is given.
        size: Width and height in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "ghn",
        "text.color": TEXT,
        "axes.labelcolor": TEXT,
        "axes.edgecolor": COLOURS[0],
        "xtick.color": TEXT,
        "ytick.color": TEXT,
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=COLOURS[0], alpha=0.25, linewidth=0.7)
        axes.set_axisbelow(True)
        draw(axes)
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _for_page(file.getvalue())


def _for_page(svg: str) -> str:
    """Fit an SVG file into an HTML page.

    HTML knows SVG's vocabularies without their names. Of matplotlib's identifiers those stay that
    are used; they are hashes of what they name, so that figures may share them.
    """
    svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor")
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?)="[^"]*"', "", svg).replace("xlink:href", "href")
    return svg.replace("<svg", '<svg role="img"', 1)


def _colours(lines: Sequence[Line]) -> list[str]:
    return [line.colour or COLOURS[i % len(COLOURS)] for i, line in enumerate(lines)]
