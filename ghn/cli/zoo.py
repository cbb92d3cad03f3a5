"""`ghn zoo`: list what MODEL can be, trace whole zoos, and look at the samplers."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghn.benchmarks.processes import Limits
from ghn.benchmarks.sweep import Traced, summarize, trace_all
from ghn.benchmarks.sweep_report import journal_path, save_results
from ghn.cli.models import AsJson, CheckpointName, given_options, shell_command
from ghn.cli.output import print_json, print_table, print_text, progress_bar
from ghn.errors import ConfigError

if TYPE_CHECKING:
    from ghn.benchmarks.soundness import Soundness

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Model zoos and samplers: list, trace, sample.\n\nExample: ghn zoo sample vits -n 5",
    add_completion=False,
)

Pattern = Annotated[
    str | None, typer.Option("--filter", help="Only names that match, such as 'resnet*'.")
]


def _select(family: str, pattern: str | None) -> list[str]:
    from ghn.zoo.library import list_models

    names = list_models(family)
    chosen = [n for n in names if pattern is None or fnmatch.fnmatch(n.partition(":")[2], pattern)]
    if not chosen:
        raise ConfigError(f"no model of {family} matches {pattern!r}; try --filter '*'")
    return chosen


@app.command("list")
def list_names(
    family: Annotated[
        str | None, typer.Argument(help="timm, torchvision, transformers, or a sampler.")
    ] = None,
    pattern: Pattern = None,
    as_json: AsJson = False,
) -> None:
    """List families, or the models of one.

    Example: ghn zoo list timm --filter 'resnet*'
    """
    from ghn.zoo import families

    if family is None and pattern is not None:
        raise ConfigError("name a family to filter its models, such as: ghn zoo list timm")
    known = families()
    names = list(known) if family is None else _select(family, pattern)
    if as_json:
        print_json(names)
    elif family is None:
        for found in known.values():
            print_text(f"{found.name:<14}{found.summary}")
    else:
        for name in names:
            print_text(name)


@app.command("trace")
def trace_family(
    context: typer.Context,
    family: Annotated[str, typer.Argument(help="timm, torchvision or transformers.")],
    pattern: Pattern = None,
    limit: Annotated[
        int | None, typer.Option(help="At most this many, evenly spread.", min=1)
    ] = None,
    jobs: Annotated[int, typer.Option(help="Processes, each with one thread.", min=1)] = 2,
    seconds: Annotated[float, typer.Option(help="Time limit of one model, in s.")] = 60.0,
    gigabytes: Annotated[float, typer.Option(help="Memory limit of one model, in GiB.")] = 6.0,
    save: Annotated[
        Path | None, typer.Option(help="Folder for trace-FAMILY.json and trace-FAMILY.md.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trace all models of a zoo without their weights; exit status 1 if any fails.

    A sweep that was interrupted goes on where it stopped.

    Example: ghn zoo trace timm --filter 'vit*' --json
    """
    names = _select(family, pattern)
    if limit is not None and limit < len(names):
        names = [names[i * len(names) // limit] for i in range(limit)]
    limits = Limits(seconds, gigabytes)
    journal = journal_path(f"trace-{family}", (names, limits))
    with progress_bar(f"Tracing {family}") as ticker:
        results = trace_all(names, jobs, ticker, limits, journal)
    journal.unlink(missing_ok=True)
    summary = summarize(results)
    if save is not None:
        command = shell_command("zoo trace", family, given_options(context))
        save_results(family, results, save, command)
    if as_json:
        print_json({"summary": summary, "models": [dataclasses.asdict(r) for r in results]})
    else:
        _print_summary(family, summary, results)
    if summary["failed"]:
        raise typer.Exit(1)


@app.command("sample")
def sample_family(
    family: Annotated[str, typer.Argument(help="vits, convnets, gpts, vits-1k or gpts-1k.")],
    count: Annotated[int, typer.Option("--count", "-n", help="Number of networks.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the first; the others count up.")] = 0,
    split: Annotated[str, typer.Option(help="train, val, test, wide or deep.")] = "train",
    as_json: AsJson = False,
) -> None:
    """Show networks that a sampler draws.

    Example: ghn zoo sample convnets --split wide -n 5
    """
    import torch

    from ghn.zoo.registry import SAMPLERS, sample

    networks: list[dict[str, Any]] = []
    for number in range(seed, seed + count):
        drawn = sample(family, number, split)
        with torch.device("meta"):
            model = SAMPLERS[family].build(drawn)
        elements = sum(p.numel() for p in model.parameters())
        networks.append({"seed": number, "parameters": elements, "settings": drawn.to_dict()})
    if as_json:
        print_json(networks)
        return
    rows = [
        [
            str(n["seed"]),
            f"{n['parameters']:,}",
            ", ".join(f"{k}={v}" for k, v in n["settings"].items()),
        ]
        for n in networks
    ]
    print_table(f"{family}, split {split}", [">seed", ">parameters", "settings"], rows)


@app.command("predict")
def predict_family(
    context: typer.Context,
    family: Annotated[str, typer.Argument(help="timm, torchvision or transformers.")],
    sample: Annotated[int, typer.Option(help="Number of models, drawn at random.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    pattern: Pattern = None,
    millions: Annotated[float, typer.Option(help="Largest model, in 1e6 elements.")] = 100.0,
    jobs: Annotated[int, typer.Option(help="Processes, each with one thread.", min=1)] = 2,
    seconds: Annotated[float, typer.Option(help="Time limit of one model, in s.")] = 600.0,
    checkpoint: CheckpointName = None,
    calibrate: Annotated[
        bool, typer.Option(help="Scale layers whose outputs are far from the usual size.")
    ] = True,
    save: Annotated[
        Path | None, typer.Option(help="Folder for predict-FAMILY.json and predict-FAMILY.md.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict whole models of a zoo and check that they are sane; exit status 1 if one is not.

    A sweep that was interrupted goes on where it stopped.

    Example: ghn zoo predict timm --sample 100 --seed 1
    """
    from ghn.benchmarks.soundness import check_sample
    from ghn.benchmarks.soundness_report import CODE, save_checked, summarize_checked
    from ghn.engine.checkpoint import checkpoint_digest
    from ghn.engine.source import default_checkpoint

    if not 0.0 < millions < math.inf:
        raise ConfigError(f"--millions must be a number above 0, got {millions}")
    names, limit, limits = _select(family, pattern), int(millions * 1e6), Limits(seconds, 12.0)
    used = [checkpoint or default_checkpoint(m)[0] for m in ("vision", "text")]
    weights = [checkpoint_digest(name) for name in used]
    settings = (names, sample, seed, weights, calibrate, limit, limits)
    journal = journal_path(f"predict-{family}", settings, CODE)
    with progress_bar(f"Predicting {family}") as ticker:
        results = check_sample(
            *(names, sample, seed, limit, jobs, checkpoint, calibrate, ticker),
            limits=limits,
            journal=journal,
        )
    journal.unlink(missing_ok=True)
    summary = summarize_checked(results)
    if save is not None:
        command = shell_command("zoo predict", family, given_options(context))
        save_checked(family, results, save, command)
    if as_json:
        models = [{**dataclasses.asdict(r), "sound": r.sound} for r in results]
        print_json({"summary": summary, "models": models})
    else:
        _print_checked(family, summary, results)
    if summary["sound"] < len(results):
        raise typer.Exit(1)


def _print_checked(family: str, summary: dict[str, Any], results: list[Soundness]) -> None:
    rows = [
        [
            r.name,
            f"{r.kept_share:.1%}",
            f"{len(r.degenerate)}",
            f"{len(r.far)} of {r.layers}",
            r.error or r.output_fault,
        ]
        for r in results
        if not r.sound
    ]
    title = (
        f"{family}: {summary['sound']} of {len(results)} sane, {summary['within']} with all layers "
        f"within 10 times the default; {summary['kept_share']:.2%} of tensors kept"
    )
    print_table(title, ["model", ">kept", ">degenerate", ">layers far off", "failure"], rows)


def _print_summary(family: str, summary: dict[str, Any], results: list[Traced]) -> None:
    title = (
        f"{family}: {summary['models']:,} models, {summary['counted']:,} traced, "
        f"{summary['many_untouched']} with many parameters untouched, {summary['failed']} failed, "
        f"{summary['nodes']:,} operators of which {summary['other_share']:.2%} are unknown, "
        f"{summary['parameters']:,} parameters, median {summary['median_seconds']:.2f} s"
    )
    shown = [r for r in results if r.error or r.untouched or r.other] or results[:20]
    rows = [
        [r.name, f"{r.nodes:,}", f"{r.parameters:,}", str(r.untouched), str(r.other), r.error]
        for r in shown
    ]
    columns = ["model", ">operators", ">parameters", ">untouched", ">unknown", "error"]
    print_table(title, columns, rows)
