"""`ghn train`: train a hypernetwork; every setting of `TrainConfig` is a flag."""

from __future__ import annotations

import shlex
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghn.cli import flags
from ghn.cli.output import note, print_table, progress_bar
from ghn.errors import ConfigError

if TYPE_CHECKING:
    from ghn.training import StepRecord

__all__ = ["SUMMARY", "build_command"]

SUMMARY = """Train a hypernetwork on sampled networks; settings from a TOML file, flags, or both.

Example: ghn train --config settings.toml --steps 1000
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

    path = values.pop("config")
    try:
        base = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read settings from {path}: {error}") from error
    config = TrainConfig.from_dict(flags.collect(TrainConfig, values, base))
    with progress_bar("Training") as ticker:
        trainer = train(config, lambda r: ticker(r.step, config.steps, _text(r)))
    if not trainer.accelerator.is_main_process:
        return
    folder = Path(config.out) / "checkpoint"
    command = shlex.join(["ghn", *sys.argv[1:]])
    found = export(config.out, folder, command=command, networks=config.eval_networks)
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


def _text(record: StepRecord) -> str:
    return (
        f"loss {record.loss:.3f}, accuracy {record.accuracy:.1%}, "
        f"{record.networks_per_second:.1f} networks/s, {record.skipped} skipped"
    )
