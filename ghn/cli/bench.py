"""`ghn bench`: measurements of this library."""

from __future__ import annotations

from typing import Annotated

import typer

from ghn.cli.models import AsJson
from ghn.cli.output import print_json, print_table, progress_bar

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Measure this library: speed.", add_completion=False)


@app.callback()
def root() -> None:
    """Measure this library."""


@app.command("speed")
def speed(
    model: Annotated[
        list[str] | None, typer.Option(help="Model to measure; may be repeated. Default: five.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Repetitions; medians are reported.", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = 2,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint to predict from; default: the embedded one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time tracing against a forward pass, and predicting against default construction.

    Example: ghn bench speed --model timm:resnet50
    """
    from ghn.benchmarks.speed import TARGETS, measure_speed

    with progress_bar("Measuring") as ticker:
        result = measure_speed(
            tuple(model) if model else TARGETS, repeats, threads, checkpoint, ticker
        )
    if as_json:
        print_json(result.to_dict())
        return
    rows = [
        [
            r.model,
            f"{r.forward:.3f}",
            f"{r.trace:.3f}",
            f"{r.trace / r.forward:.2f}x",
            f"{r.construct:.3f}",
            f"{r.predict:.3f}",
            f"{r.predict / r.construct:.2f}x",
        ]
        for r in result.rows
    ]
    columns = ["model", ">forward", ">trace", ">ratio", ">construct", ">predict", ">ratio"]
    print_table(
        f"Median seconds of {repeats} with {threads} threads, batch 1. {result.hypernetwork}",
        columns,
        rows,
    )
