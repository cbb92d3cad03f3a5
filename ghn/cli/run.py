"""`ghn run METHOD`: methods of papers, each with the settings of its `RunConfig` as flags."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ghn.cli import flags
from ghn.cli.group import LateCommands, add_late
from ghn.cli.models import AsJson
from ghn.cli.output import note, print_json, print_table, progress_bar
from ghn.io import made_folder
from ghn.methods.registry import METHODS, Method

__all__ = ["app"]


app = typer.Typer(
    cls=LateCommands,
    no_args_is_help=True,
    help="Run a paper's method on its benchmarks.\n\nExample: ghn run continual --help",
    add_completion=False,
)


@app.callback()
def root() -> None:
    """Run a paper's method on its benchmarks."""


def _build(name: str, method: Method) -> Any:
    """Return a method's command with one flag for each setting."""
    module = method.load()

    results = Annotated[
        Path | None, typer.Option("--results", help="Folder of the results; default: --out.")
    ]
    run = functools.partial(_run, module)
    further = {"results": results, "as_json": AsJson}
    return flags.build_command(name, method.summary, module.RunConfig, run, further)


def _run(module: Any, values: dict[str, Any]) -> None:
    """Run a method with the given flags; print its table and write its results."""
    from ghn.benchmarks.records import make_record

    as_json, folder = values.pop("as_json"), values.pop("results")
    config = module.RunConfig.from_dict(flags.collect(module.RunConfig, values, {}))
    if folder is not None:
        made_folder(folder)  # before hours of training
    with progress_bar("Learning") as ticker:
        result = module.run(config, ticker)
    command = shlex.join(["ghn", *sys.argv[1:]])
    record = make_record(command, tuple(config.seeds), module.data_of(config))
    result.write(folder or Path(config.out) / result.name, record.to_dict())
    if as_json:
        print_json({**result.to_dict(), "record": record.to_dict()})
    else:
        print_table(result.title, *result.table())
    for path in result.files:
        note(f"Written: {path}")


for _name, _method in METHODS.items():
    if _method.home:
        add_late(app, f"run {_name}", _method.summary, functools.partial(_build, _name, _method))
