"""`ghn train`: train a hypernetwork; every setting of `TrainConfig` is a flag."""

from __future__ import annotations

import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghn.cli import flags
from ghn.cli.output import note, print_table, progress_bar
from ghn.errors import ConfigError
from ghn.io import expanded

if TYPE_CHECKING:
    from ghn.training import StepRecord

__all__ = ["SUMMARY", "build_command"]

SUMMARY = """Train a hypernetwork on sampled networks; settings from a TOML file, flags, or both.

Example: ghn train --config settings.toml --steps 1000

A recipe of an embedded checkpoint is named without its file: --config vision-cifar10.
"""


def build_command() -> Any:
    """Return the command with one flag for each setting, for which torch must be imported."""
    from ghn.training import TrainConfig

    file = Annotated[
        Path | None, typer.Option("--config", help="TOML file of settings; flags go first.")
    ]
    return flags.build_command("train", SUMMARY, TrainConfig, run, {"config": file})


def run(values: dict[str, Any]) -> None:
    """Train with the settings of a file, overlaid by flags.

    Args:
        values: `config`, a path or None, and the flags' values by parameter name.
    """
    from ghn.training import TrainConfig, export, train
    from ghn.training.tasks import format_score

    base = _settings(values.pop("config"))
    config = TrainConfig.from_dict(flags.collect(TrainConfig, values, base))
    first = int(os.environ.get("RANK", "0")) == 0
    text = ""
    with progress_bar("Training", shown=first) as ticker:

        def report(record: StepRecord) -> None:
            nonlocal text
            text = _text(record)

        trainer = train(config, report, lambda step: ticker(step, config.steps, text))
    if not trainer.accelerator.is_main_process:
        return
    folder = Path(config.out) / "checkpoint"
    found = export(
        config.out,
        folder,
        command=_command(trainer.accelerator.num_processes),
        networks=config.eval_networks,
    )
    note(f"Checkpoint: {folder}")
    if not found:
        return
    rows = [
        [split, str(len(e.scores)), *(format_score(a, e.metric) for a in e.by_family().values())]
        for split, e in found.items()
    ]
    families = list(next(iter(found.values())).by_family())
    metric = found["test"].metric.capitalize()
    print_table(f"{metric} before any training", ["networks", ">number", *families], rows)


def _settings(path: Path | None) -> dict[str, Any]:
    """Return the settings of a file, or of the recipe of that name."""
    if path is None:
        return {}
    import ghn.training

    folder = Path(ghn.training.__file__).parent / "recipes"
    recipes = {recipe.stem: recipe for recipe in sorted(folder.glob("*.toml"))}
    file = expanded(path)
    if not file.exists():
        if str(path) not in recipes:
            raise ConfigError(f"{path} is neither a file nor a recipe ({', '.join(recipes)})")
        file = recipes[str(path)]
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read settings from {path}: {error}") from error


def _command(processes: int) -> str:
    """Return the command that trains again; of several processes, as on one machine."""
    alone = ["ghn"]
    together = ["torchrun", f"--nproc-per-node={processes}", "-m", "ghn.cli"]
    return shlex.join([*(alone if processes == 1 else together), *sys.argv[1:]])


def _text(record: StepRecord) -> str:
    return (
        f"loss {record.loss:.3f}, accuracy {record.accuracy:.1%}, "
        f"{record.networks_per_second:.1f} networks/s, {record.skipped} skipped"
    )
