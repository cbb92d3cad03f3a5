"""Tables of the initialization benchmark: one row for each start of a group, or of a network."""

from __future__ import annotations

import math

from ghn.benchmarks.compare import mean_and_spread
from ghn.benchmarks.init.outcome import InitResult, NetworkResult
from ghn.training.tasks import format_score

__all__ = ["network_table", "summary_table"]


def _difference(value: float, metric: str) -> str:
    if math.isnan(value):
        return "diverged"
    return f"{100 * value:+.1f}" if metric == "accuracy" else f"{value:+.3f}"


def _interval(low: float, high: float, metric: str) -> str:
    ends = low, high
    if not all(map(math.isfinite, ends)):
        return "-"
    return " to ".join(_difference(end, metric) for end in ends)


def _reach(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"


def summary_table(result: InitResult) -> tuple[list[str], list[list[str]]]:
    """Return one row for each group and start, and the columns' names."""
    metric = result.networks[0].metric
    columns = ["networks", "start", ">number", ">rate", ">step 0", ">final", ">gain",
               ">95 % interval", ">wins", ">ties", ">losses", ">worse", ">reach"]  # fmt: skip
    rows = []
    for s in result.summaries():
        row = [s.group, s.start, str(s.networks), f"{s.rate:g}", *(
            format_score(v, metric) for v in (s.first, s.final)
        )]  # fmt: skip
        if s.start == result.config.starts[0]:
            rows.append([*row, *[""] * 7])
            continue
        ties = s.networks - s.wins - s.losses
        interval = _interval(s.low, s.high, metric)
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
    _, spread = mean_and_spread(network.finals(start))
    lost = " (diverged)" if network.diverged(start) else ""
    return _difference(spread, network.metric).lstrip("+") + lost


def _against(network: NetworkResult, start: str, base: str) -> list[str]:
    if start == base:
        return ["", "", ""]
    gain = network.gain(start, base)
    if network.diverged(base) and not network.diverged(start):
        return [f"{base} diverged", "-", _reach(gain.reach)]
    interval = _interval(gain.low, gain.high, network.metric)
    return [_difference(gain.mean, network.metric), interval, _reach(gain.reach)]
