"""Tables and curves of the initialization benchmark, for people: terminal, Markdown, picture."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from ghn.benchmarks.init.outcome import InitResult, NetworkResult
from ghn.io import atomic_path, write_json, write_text
from ghn.pages.markdown import markdown_table
from ghn.training.tasks import format_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_curves", "network_table", "save_result", "summary_table"]

COLOURS = ("#8a8f98", "#d9622b", "#3c78b4", "#4a9a62", "#9a5fb0", "#b8933a")


def _difference(value: float, metric: str) -> str:
    return f"{100 * value:+.1f}" if metric == "accuracy" else f"{value:+.3f}"


def _reach(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"


def summary_table(result: InitResult) -> tuple[list[str], list[list[str]]]:
    """Return one row for each group and start, and the columns' names."""
    metric = result.networks[0].metric
    columns = ["networks", "start", ">number", ">step 0", ">final", ">gain", ">95 % interval",
               ">wins", ">ties", ">losses", ">worse", ">reach"]  # fmt: skip
    rows = []
    for s in result.summaries():
        row = [s.group, s.start, str(s.networks), *(
            format_score(v, metric) for v in (s.first, s.final)
        )]  # fmt: skip
        if s.start == result.config.starts[0]:
            rows.append([*row, *[""] * 7])
            continue
        ties = s.networks - s.wins - s.losses
        interval = " to ".join(_difference(v, metric) for v in (s.low, s.high))
        counts = map(str, (s.wins, ties, s.losses, s.worse))
        rows.append([*row, _difference(s.gain, metric), interval, *counts, _reach(s.reach)])
    return columns, rows


def network_table(result: InitResult) -> tuple[list[str], list[list[str]]]:
    """Return one row for each network and start, and the columns' names."""
    columns = ["network", "start", ">parameters", ">rate", ">step 0", ">final", ">gain",
               ">95 % interval", ">reach"]  # fmt: skip
    base = result.config.starts[0]
    rows = []
    for network in result.networks:
        for start in result.config.starts:
            curve = network.curve(start)
            spread = _spread(network, start)
            rows.append(
                [
                    f"{network.name} ({network.group})",
                    start,
                    f"{network.parameters:,}",
                    f"{network.rates[start]:g}",
                    format_score(curve[0][1], network.metric),
                    f"{format_score(curve[-1][1], network.metric)} ± {spread}",
                    *_against(network, start, base),
                ]
            )
    return columns, rows


def _spread(network: NetworkResult, start: str) -> str:
    finals = [run.scores[-1][1] for run in network.runs[start]]
    spread = statistics.stdev(finals) if len(finals) > 1 else 0.0
    return _difference(spread, network.metric).lstrip("+")


def _against(network: NetworkResult, start: str, base: str) -> list[str]:
    if start == base:
        return ["", "", ""]
    gain = network.gain(start, base)
    interval = " to ".join(_difference(v, network.metric) for v in (gain.low, gain.high))
    return [_difference(gain.mean, network.metric), interval, _reach(gain.reach)]


def save_result(result: InitResult, folder: Path) -> list[Path]:
    """Write `result.json`, `result.md` and `result.svg`; return their paths."""
    paths = [folder / f"result.{ending}" for ending in ("json", "md", "svg")]
    write_json(paths[0], result.to_dict())
    write_text(paths[1], _markdown(result))
    draw_curves(result, paths[2])
    return paths


def _markdown(result: InitResult) -> str:
    config, record = result.config, result.record
    base = config.starts[0]
    machine = f"{record.machine['processor']}, {record.machine['cores']} cores"
    return "\n".join(
        [
            f"# Initializations: {config.split}, {config.data}, {config.steps} steps",
            "",
            f"Made by `{record.command}` on {machine}, {record.date}; torch "
            f"{record.versions['torch']}. Data `{record.data['name']}` (hash "
            f"`{record.data['hash']}`), scored on the first {config.scored:,} of "
            f"`{config.scored_on}`.",
            "",
            f"Batches of {config.batch}, AdamW, warm-up over a tenth of the steps, cosine to zero. "
            f"Every start chose its rate from {', '.join(f'{r:g}' for r in config.rates)} (further "
            "where the best lay on the edge) for every network by the training loss on a seed of "
            f"its own; results are from seeds {', '.join(map(str, config.seeds))}. Step 0 is "
            "scored after BatchNorm statistics were taken on the same training batches.",
            "",
            f"Gains are final scores against `{base}`, seed by seed. Win, loss: a network's 95 % "
            "bootstrap interval over seeds leaves out 0. Worse: it lies below a point. Reach: "
            f"steps until the mean curve meets the final mean of `{base}`, in units of all steps; "
            "the median over networks.",
            "",
            *markdown_table(*summary_table(result)),
            "",
            "## Networks",
            "",
            *markdown_table(*network_table(result)),
            "",
        ]
    )


def draw_curves(result: InitResult, path: Path) -> None:
    """Draw mean scores over steps for each group of networks, one line a start."""
    from matplotlib.figure import Figure

    groups: dict[str, list[NetworkResult]] = {}
    for network in result.networks:
        groups.setdefault(network.group, []).append(network)
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained", dpi=110)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (group, members) in zip(panels, groups.items(), strict=False):
        _draw_group(panel, members, result.config.starts)
        panel.set_title(f"{group} ({len(members)})", loc="left", fontsize=10)
    for panel in list(panels)[len(groups) :]:
        panel.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lstrip("."))


def _draw_group(panel: Axes, members: list[NetworkResult], starts: tuple[str, ...]) -> None:
    accuracy = members[0].metric == "accuracy"
    unit = 100.0 if accuracy else 1.0
    for start, colour in zip(starts, COLOURS, strict=False):
        curves = [network.curve(start) for network in members]
        steps = [step for step, _ in curves[0]]
        means = [unit * statistics.fmean(c[i][1] for c in curves) for i in range(len(steps))]
        panel.plot(steps, means, color=colour, linewidth=1.8, label=start)
    panel.set_xlabel("step")
    panel.set_ylabel("accuracy, %" if accuracy else "bits per byte")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)
