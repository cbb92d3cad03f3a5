"""`ghn bench`: measurements of this library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghn.cli.models import AsJson
from ghn.cli.output import print_json, print_table, progress_bar

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Measure this library: speed and memory.", add_completion=False
)


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


@app.command("predict")
def predict(
    model: Annotated[
        list[str] | None, typer.Option(help="Model to measure; may be repeated. Default: five.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Repetitions; medians are reported.", min=1)] = 3,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = 2,
    checkpoint: Annotated[
        str | None, typer.Option(help="Checkpoint to predict from; default: the embedded one.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the ratios (.svg, .png, .pdf).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time and memory of predict_params against a model's own initialization.

    Example: ghn bench predict --model gpt2-large --picture predict.svg
    """
    from ghn.benchmarks.predict_cost import MODELS, draw_costs, measure_costs

    names = tuple(model) if model else tuple(MODELS)
    with progress_bar("Measuring") as ticker:
        costs = measure_costs(names, repeats, threads, checkpoint, ticker)
    if picture is not None:
        draw_costs(costs, picture)
    if as_json:
        print_json(costs.to_dict())
        return
    rows = [
        [
            r.model,
            f"{r.own:.2f}",
            f"{r.from_meta:.2f}",
            f"{r.from_meta / r.own:.2f}x",
            f"{r.in_place:.2f}",
            f"{r.in_place / r.own:.2f}x",
            f"{r.model_mib:,.0f}",
            f"{r.peak_mib:,.0f}",
        ]
        for r in costs.rows
    ]
    columns = ["model", ">own init", ">from meta", ">ratio", ">in place", ">ratio", ">MiB", ">peak"]
    print_table(f"Median seconds of {repeats} with {threads} threads", columns, rows)
