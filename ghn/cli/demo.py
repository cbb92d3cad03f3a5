"""`ghn demo`: predicted against default initialization on real images, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ghn.cli.models import AsJson, CheckpointName
from ghn.cli.output import note, print_json, print_table, print_text, progress_bar

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML report to write.")] = Path(
        "demo-report.html"
    ),
    dataset: Annotated[
        str | None,
        typer.Option(help="cifar10, digits, or auto: CIFAR-10 where it is found. Default: auto."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time that the number of steps is chosen to fit into. Default: 4."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each run, instead of --minutes.", min=1)
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="A seed; may be repeated. Default: 0 1 2.")
    ] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="A learning rate to choose from; may be repeated."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="One of the demo's models; may be repeated.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images in a step.", min=2)] = None,
    test_images: Annotated[
        int | None, typer.Option(help="Images that accuracy is measured on.", min=1)
    ] = None,
    checkpoint: CheckpointName = None,
    jobs: Annotated[
        int | None, typer.Option(help="Processes, each with one thread. Default: 2.", min=1)
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast", help="A few steps on digits, to see that all works; other flags overrule it."
        ),
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also write the curves as a picture, .svg or .png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train models that the checkpoint never saw from predicted and from default parameters.

    Example: ghn demo --minutes 2 --out report.html
    """
    from ghn.benchmarks.demo import run_demo
    from ghn.benchmarks.outcome import DemoConfig, fast_config
    from ghn.benchmarks.report import demo_report, draw_curves, table_rows
    from ghn.io import write_text

    given: dict[str, Any] = {
        "dataset": dataset,
        "minutes": minutes,
        "steps": steps,
        "jobs": jobs,
        "seeds": tuple(seed) if seed else None,
        "rates": tuple(rate) if rate else None,
        "models": tuple(model) if model else None,
        "batch": batch,
        "test_images": test_images,
        "checkpoint": checkpoint,
    }
    settings = {key: value for key, value in given.items() if value is not None}
    config = (fast_config() if fast else DemoConfig()).replace(**settings)
    with progress_bar("Training from both starts") as ticker:
        result = run_demo(config, ticker)
    write_text(out, demo_report(result).to_html())
    if picture is not None:
        draw_curves(result, picture)
    if as_json:
        print_json(result.to_dict())
    else:
        columns, rows = table_rows(result)
        print_table(f"{result.dataset}, {len(config.seeds)} seeds", columns, rows)
        print_text(result.sentence)
        print_text(f"Again: {result.record.command}")
    note(f"Report: {out.resolve()} ({result.seconds:.0f} s in all)")
