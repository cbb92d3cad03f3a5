"""The command line: `ghn predict | graph | train | run | methods | demo | env | zoo | bench`.

One file a command. Heavy libraries are imported when a command runs, so that `ghn --help` answers
at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ghn.cli import bench, demo, env, graph, methods, predict, run, train, zoo
from ghn.cli.group import Commands, add_late

__all__ = ["app", "main"]

app = typer.Typer(
    name="ghn",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict.predict)
app.command()(graph.graph)
add_late(app, "train", train.SUMMARY, train.build_command)
app.command()(demo.demo)
app.command()(env.env)
app.command()(methods.methods)
app.add_typer(zoo.app, name="zoo")
app.add_typer(bench.app, name="bench")
app.add_typer(run.app, name="run")


def _print_version(wanted: bool) -> None:
    if wanted:
        import ghn

        typer.echo(ghn.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Graph hypernetworks for PyTorch: predict the parameters of any model.

    Example: ghn predict timm:resnet18 -o weights.safetensors

    Exit status: 0 done, 1 an error that the message explains, 2 a wrong command line, 130 Ctrl-C.
    """


def main() -> None:
    """Run the command line of this process."""
    app()
