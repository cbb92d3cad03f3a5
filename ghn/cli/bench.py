"""`ghn bench`: measurements of this library."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghn.cli import flags
from ghn.cli.group import LateCommands, add_late
from ghn.cli.models import AsJson, CheckpointName
from ghn.cli.output import note, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ghn.benchmarks.init import InitResult

__all__ = ["app"]

app = typer.Typer(
    cls=LateCommands,
    no_args_is_help=True,
    help="Measure this library: starts, speed and memory.\n\nExample: ghn bench speed --json",
    add_completion=False,
)

ModelNames = Annotated[
    list[str] | None, typer.Option(help="Model to measure; may be repeated. Default: five.")
]
Repeats = Annotated[int, typer.Option(help="Repetitions; medians are reported.", min=1)]
Threads = Annotated[int, typer.Option(help="Threads of torch.", min=1)]
Picture = Annotated[
    Path | None, typer.Option(help="Also draw the result (.svg, .png, .pdf).", show_default=False)
]


INIT = """Train networks from several initializations on the same batches, and compare.

Every run is kept in the folder of results; an interrupted benchmark goes on where it stopped. Exit
status 1 if a network could not be trained; the others are reported.

Example: ghn bench init --split test --networks 20 --out runs/bench-test
"""


@app.callback()
def root() -> None:
    """Measure this library."""


def build_init() -> Any:
    """Return the command with one flag for each setting, for which torch must be imported."""
    from ghn.benchmarks.init import InitConfig

    return flags.build_command("init", INIT, InitConfig, run_init, {"as_json": AsJson})


add_late(app, "bench init", INIT, build_init)


def run_init(values: dict[str, Any]) -> None:
    """Run the benchmark with the settings that flags give.

    Args:
        values: `as_json`, and the flags' values by parameter name.
    """
    from ghn.benchmarks.init import InitConfig, run_bench, save_result, summary_table
    from ghn.device import choose_device

    as_json = values.pop("as_json")
    config = InitConfig.from_dict(flags.collect(InitConfig, values, {}))
    if config.cuda_graphs and not config.ray and choose_device(config.device).type != "cuda":
        note("--cuda-graphs does nothing without a GPU.")
    with progress_bar("Training from each start") as ticker:
        result: InitResult = run_bench(config, ticker)
    files = save_result(result, Path(config.out))
    if as_json:
        print_json(result.to_dict())
    else:
        for name, part in zip(result.scored, [result, *result.others().values()], strict=True):
            print_table(f"{name}, {config.steps} steps", *summary_table(part))
        note(f"Results: {', '.join(str(f) for f in files)}")
    for name, reason in result.failed.items():
        note(f"Left out: {name}, {reason}")
    if result.failed:
        raise typer.Exit(1)


MIP = """Train with and without magnitude-invariant parametrization, each at its best rate.

Example: ghn bench mip --tasks beta-vae --seeds 0 --seeds 1 --steps 600
"""


def build_mip() -> Any:
    """Return the command with one flag for each setting, for which torch must be imported."""
    from ghn.benchmarks.mip import MIPConfig

    return flags.build_command("mip", MIP, MIPConfig, run_mip, {"as_json": AsJson})


add_late(app, "bench mip", MIP, build_mip)


def run_mip(values: dict[str, Any]) -> None:
    """Run the benchmark with the settings that flags give.

    Args:
        values: `as_json`, and the flags' values by parameter name.
    """
    from ghn.benchmarks import mip
    from ghn.benchmarks.records import make_record

    as_json = values.pop("as_json")
    config = mip.MIPConfig.from_dict(flags.collect(mip.MIPConfig, values, {}))
    with progress_bar("Training") as ticker:
        result = mip.run_mip(config, ticker)
    command = shlex.join(["ghn", *sys.argv[1:]])
    record = make_record(command, config.seeds, mip.data_of(config)).to_dict()
    files = result.write(Path(config.results or config.out), record)
    if as_json:
        print_json({**result.to_dict(), "record": record})
    else:
        print_table(f"Adam, {config.steps} steps", *result.table())
    note(f"Results: {', '.join(str(f) for f in files)}")


@app.command("speed")
def speed(
    model: ModelNames = None,
    repeats: Repeats = 5,
    threads: Threads = 2,
    checkpoint: CheckpointName = None,
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
    model: ModelNames = None,
    repeats: Repeats = 3,
    threads: Threads = 2,
    checkpoint: CheckpointName = None,
    picture: Picture = None,
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


@app.command("kernels")
def kernels(
    device: Annotated[str, typer.Option(help="cpu, or cuda where there is a GPU.")] = "cpu",
    repeats: Repeats = 5,
    threads: Threads = 2,
    picture: Picture = None,
    as_json: AsJson = False,
) -> None:
    """Expansion of recipes against filling memory, and emission while training.

    Example: ghn bench kernels --picture kernels.svg
    """
    from ghn.benchmarks.expansion import CASES, CPU_CASES, draw_roofline, measure
    from ghn.benchmarks.training_cost import measure_training

    on_cpu = device == "cpu"
    with progress_bar("Expanding") as ticker:
        result = measure(CPU_CASES if on_cpu else CASES, device, repeats, threads, ticker)
    if picture is not None:
        draw_roofline(result, picture)
    training = None
    if on_cpu:
        with progress_bar("Training") as ticker:
            training = measure_training(repeats, threads, ticker)
    if as_json:
        print_json(
            {"expansion": result.to_dict(), "training": training and training.to_dict()},
        )
        return
    rows = [
        [
            f"{r.case.model}, rank {r.case.rank}, {r.case.dtype} {r.case.precision}",
            f"{r.gigabytes:.2f}",
            f"{1e3 * r.fill:.1f}",
            f"{1e3 * r.grouped:.1f}",
            f"{r.share_of_fill:.0%}",
            f"{r.loop / r.grouped:.2f}x",
            f"{r.products / r.grouped:.2f}x",
            f"{r.training_over_bound:.2f}x",
        ]
        for r in result.rows
    ]
    columns = ["case", ">GB", ">fill ms", ">grouped ms", ">of fill", ">loop", ">products"]
    print_table(
        f"{result.backend}. Medians of {repeats}; loop and products in units of grouped; "
        "training: forward and backward in units of the bytes they must move",
        [*columns, ">training"],
        rows,
    )
    if training is not None:
        emission = training.emit_single / training.emit_grouped
        print_table(
            f"One meta-batch of {training.networks} networks, {training.tensors} tensors",
            ["emission", ">forward and backward, ms", ">in units of grouped"],
            [
                [f"grouped: {training.stacks} stacks", f"{1e3 * training.emit_grouped:.0f}", "1"],
                ["tensor by tensor", f"{1e3 * training.emit_single:.0f}", f"{emission:.1f}"],
                ["running the networks", f"{1e3 * training.targets:.0f}", ""],
            ],
        )


@app.command("ties")
def ties(
    model: ModelNames = None,
    seed: Annotated[int, typer.Option(help="Of weights, inputs and permutations.")] = 0,
    jobs: Annotated[int, typer.Option(help="Number of models at a time.", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Permute the channels of models and see whether their functions stay.

    Where torch-pruning is installed, its groups are permuted too.

    Example: ghn bench ties --model timm:resnet50
    """
    from ghn.benchmarks.ties import MODELS, Outcome, measure_ties

    with progress_bar("Permuting") as ticker:
        report = measure_ties(tuple(model) if model else MODELS, seed, jobs, ticker)
    if as_json:
        print_json(report.to_dict())
        return

    def cells(outcome: Outcome | None) -> list[str]:
        if outcome is None:
            return ["not installed", "", ""]
        if outcome.error:
            return ["error", "", f"{outcome.seconds:.1f}"]
        return [f"{outcome.share:.1%}", f"{outcome.change:.0e}", f"{outcome.seconds:.1f}"]

    columns = [">channels", ">change", ">seconds"]
    print_table(
        "Output channels that were permuted, largest relative change of a logit (float64); "
        "first by ghn, then by torch-pruning",
        ["model", *columns, *columns],
        [[row.model, *cells(row.ours), *cells(row.reference)] for row in report.rows],
    )
