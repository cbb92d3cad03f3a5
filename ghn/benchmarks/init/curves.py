"""Curves of the initialization benchmark: mean scores over steps, for each group of networks."""

from __future__ import annotations

import statistics
from pathlib import Path

from ghn.benchmarks.init.outcome import InitResult, NetworkResult
from ghn.pages.pictures import picture
from ghn.pages.plots import COLOURS, Line, draw_lines

__all__ = ["SCORES", "draw_curves", "group_lines"]

SCORES = {"accuracy": "accuracy, %", "bits per byte": "bits per byte"}


def group_lines(result: InitResult) -> dict[str, list[Line]]:
    """Return for each group of networks one line a start, with one run a seed.

    A run is the mean over the group's networks, so that the spread is that of seeds.
    """
    groups: dict[str, list[NetworkResult]] = {}
    for network in result.networks:
        groups.setdefault(network.group, []).append(network)
    starts = enumerate(result.config.starts)
    colours = {start: COLOURS[place % len(COLOURS)] for place, start in starts}
    return {
        group: [_line(members, start, colour) for start, colour in colours.items()]
        for group, members in groups.items()
    }


def _line(members: list[NetworkResult], start: str, colour: str) -> Line:
    unit = 100.0 if members[0].metric == "accuracy" else 1.0
    steps = [step for step, _ in members[0].runs[start][0].scores]
    runs = [
        [unit * statistics.fmean(run.scores[i][1] for run in seed) for i in range(len(steps))]
        for seed in zip(*(network.runs[start] for network in members), strict=True)
    ]
    return Line(start, steps, runs, colour)


def draw_curves(result: InitResult, path: Path) -> None:
    """Draw mean scores over steps for each group of networks, one line a start."""
    groups = group_lines(result)
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    with picture(path, (4.2 * columns, 3.2 * rows)) as figure:
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, (group, lines) in zip(panels, groups.items(), strict=False):
            draw_lines(panel, lines)
            count = sum(network.group == group for network in result.networks)
            panel.set_title(f"{group} ({count})", loc="left", fontsize=10)
            panel.set_xlabel("step")
            panel.set_ylabel(SCORES[result.networks[0].metric])
            panel.spines[["top", "right"]].set_visible(False)
            panel.legend(frameon=False, fontsize=8)
        for panel in panels[len(groups) :]:
            panel.set_axis_off()
