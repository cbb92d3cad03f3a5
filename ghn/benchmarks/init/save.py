"""Files of the initialization benchmark: all numbers, a page of the repository, a report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ghn.benchmarks.init.config import InitConfig, parts_of
from ghn.benchmarks.init.curves import SCORES, draw_curves, group_lines
from ghn.benchmarks.init.outcome import MARGIN, InitResult
from ghn.benchmarks.init.tables import network_table, summary_table
from ghn.io import write_json, write_text
from ghn.pages import Details, Figure, Figures, Points, Report, Table, facts_of, line_plot
from ghn.pages.markdown import markdown_table

__all__ = ["init_report", "save_result"]


def save_result(result: InitResult, folder: Path) -> list[Path]:
    """Write `result.json`, `result.md`, `result.svg` and `result.html`; return their paths."""
    paths = [folder / f"result.{ending}" for ending in ("json", "md", "svg", "html")]
    write_json(paths[0], result.to_dict())
    write_text(paths[1], _markdown(result))
    draw_curves(result, paths[2])
    write_text(paths[3], init_report(result).to_html())
    return paths


def init_report(result: InitResult) -> Report:
    """Return the report: a summary, curves of each group of networks, a row for each network."""
    record = result.record.to_dict()
    groups = group_lines(result)
    label = SCORES[result.networks[0].metric]
    report = Report(
        title=_title(result),
        subtitle=f"ghn bench init, {result.record.date}, {len(result.networks)} networks",
        verdict=" ".join(_verdicts(result)),
        command=result.record.command,
        facts=facts_of(record),
    )
    report.add(
        Table(*summary_table(result), heading="Groups of networks"),
        Figures(
            [
                Figure(
                    line_plot(lines, "step", label),
                    f"{group}: mean over networks and seeds, range over seeds",
                )
                for group, lines in groups.items()
            ],
            key={line.label: line.colour for line in next(iter(groups.values()))},
            heading="Curves",
        ),
        Table(*network_table(result), heading="Networks"),
        *(Table(*table, heading=heading) for heading, table in _other_tables(result)),
        Points(_method(result), heading="How it was measured"),
        Details("All numbers as JSON", result.to_dict()),
    )
    return report


def _other_tables(
    result: InitResult,
) -> Iterator[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Give the tables of each of the further test data, with their headings."""
    for name, other in result.others().items():
        yield f"Groups of networks on {name}", summary_table(other)
        yield f"Networks on {name}", network_table(other)


def _title(result: InitResult) -> str:
    config = result.config
    what = "chosen networks" if config.models else config.split
    data = " and ".join(dict.fromkeys([config.data, *(name for name, _ in config.scored_data)]))
    return f"Initializations: {what}, {data}, {config.steps} steps"


def _verdicts(result: InitResult) -> Iterator[str]:
    """Say of each start but the first how often it ends ahead, and at which rate to train it."""
    base = result.config.starts[0]
    wanted = {s.start: s.rate for s in result.summaries()}  # the last ones are of all networks
    for start in result.config.starts[1:]:
        gains = [network.gain(start, base).verdict for network in result.networks]
        yield (
            f"{start} ends ahead of {base} on {gains.count('win')} of {len(gains)} networks, "
            f"behind on {gains.count('loss')}. Recommended learning rate for it: {wanted[start]:g} "
            f"({base}: {wanted[base]:g})."
        )


def _method(result: InitResult) -> list[str]:
    config, record = result.config, result.record
    places, libraries = (record.machine.get(f"trained {key}", []) for key in ("on", "with"))
    with_ = f" with {' and '.join(libraries)}" if libraries else ""
    base = config.starts[0]
    pairs = [(n, s, f"{n.name} ({s})") for n in result.networks for s in config.starts]
    edge = [text for network, start, text in pairs if network.on_edge(start)]
    lost = [text for network, start, text in pairs if network.diverged(start)]
    return [
        f"Data: {record.data['name']} (hash {record.data['hash']}), scored on "
        f"{_scored_on(result)}.",
        f"Batches of {config.batch}{_moved(result)}, AdamW, warm-up over a tenth of the steps, "
        f"cosine to zero{_recipe(config)}.",
        f"{_choice(config)}; results are from seeds {', '.join(map(str, config.seeds))}.",
        *([f"The best rate lies on the edge all the same for {', '.join(edge)}."] if edge else []),
        "Batch norms have statistics of the same training batches whenever a score is taken.",
        "The rate of a group, the one to begin with, is the median of its networks' choices.",
        f"Gains are final scores against {base}, seed by seed. Win, loss: a network's 95 % "
        "bootstrap interval over seeds leaves out 0 (its percentiles are widened for few seeds; "
        "noise alone passes in one case of 13 with five seeds, of 4 with three, of 2 with two). "
        f"Worse: it lies below {_margin(result)}. A start some of whose runs diverge has lost; a "
        "single seed decides nothing.",
        f"Reach: steps until the mean curve meets the final mean of {base}, in units of all "
        "steps; the median over networks.",
        *([f"Networks were trained on {' and '.join(places)}{with_}."] if places else []),
        *([f"Runs diverged: {', '.join(lost)}; mean gains leave these out."] if lost else []),
        *_idle(result),
        *_seen(result),
        *(f"Left out: {name}, {' '.join(why.split())}" for name, why in result.failed.items()),
    ]


def _choice(config: InitConfig) -> str:
    first, *others = (f"{rate:g}" for rate in config.rates)
    if not others:
        return f"Every start was trained at the rate {first}"
    return (
        f"Every start chose its rate from {', '.join([first, *others])} (further where the best "
        "lay on the edge) for every network by the training loss on a seed of its own"
    )


def _reads_images(result: InitResult) -> bool:
    return result.networks[0].metric == "accuracy"


def _scored_on(result: InitResult) -> str:
    first, *others = (f"{_inputs(result, n)} of {name}" for name, n in result.scored.items())
    if not others:
        return first
    return f"{first}, which verdicts and curves are of, and on {' and '.join(others)}"


def _moved(result: InitResult) -> str:
    """Say how images are moved while training."""
    config = result.config
    if not _reads_images(result):
        return ""
    moved = [f"{100 * config.flip:g} % of them mirrored"] if config.flip else []
    moved += [f"all shifted by up to {config.shift} pixels"] if config.shift else []
    return f" images, {', '.join(moved)}" if moved else " images as they are"


def _recipe(config: InitConfig) -> str:
    clipped = f", gradients clipped to a norm of {config.clip:g}" if config.clip else ""
    return clipped + (", networks in bfloat16" if config.mixed_precision == "bf16" else "")


def _margin(result: InitResult) -> str:
    return "-1 point" if _reads_images(result) else f"-{MARGIN} bits per byte"


def _inputs(result: InitResult, count: int) -> str:
    if _reads_images(result):
        return f"the first {count:,} images"
    return f"{count:,} excerpts at equal distances"


def _idle(result: InitResult) -> Iterator[str]:
    """Name the starts that are no others than the networks' own: nothing was predicted."""
    for start in result.config.starts:
        notes = {n.name: n.notes.get(start, {}) for n in result.networks}
        names = [name for name, note in notes.items() if note.get("predicted") == 0]
        if names:
            yield f"{start} predicts nothing of {', '.join(names)}: these are their own weights."


def _seen(result: InitResult) -> Iterator[str]:
    """Warn of images that a checkpoint may have learned from: copies of data differ in order."""
    config = result.config
    held_out = {split for _, split in config.scored_data} if _reads_images(result) else set()
    if "val" in held_out and any(parts_of(start)[0] == "ghn" for start in config.starts):
        yield (
            "The split val is the end of the training images: a checkpoint that learned from them "
            "in another order, in another copy of the data, has seen most of it. Its card has the "
            "hash of its copy; the split test was seen by none."
        )


def _markdown(result: InitResult) -> str:
    record = result.record
    machine = facts_of(record.to_dict())["Machine"]
    return "\n".join(
        [
            f"# {_title(result)}",
            "",
            f"Made by `{record.command}` on {machine}, {record.date}; torch "
            f"{record.versions['torch']}.",
            "",
            *(f"- {point}" for point in _method(result)),
            "",
            *markdown_table(*summary_table(result)),
            "",
            "## Networks",
            "",
            *markdown_table(*network_table(result)),
            "",
            *(
                line
                for heading, table in _other_tables(result)
                for line in (f"## {heading}", "", *markdown_table(*table), "")
            ),
        ]
    )
