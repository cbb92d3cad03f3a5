"""`ghn train`: train a hypernetwork; every setting of `TrainConfig` is a flag."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from ghn.cli import flags
from ghn.errors import ConfigError

__all__ = ["SUMMARY", "build_command", "placeholder"]

SUMMARY = """Train a hypernetwork on sampled networks; settings from a TOML file, flags, or both.

Example: ghn train --config settings.toml --steps 1000
"""


def placeholder() -> None:
    """Stand in for the command in lists of commands; `build_command` makes the real one."""


def build_command() -> Any:
    """Return the command with one flag for each setting, for which torch must be imported."""
    from ghn.training import TrainConfig

    def train(**values: Any) -> None:
        run(values)

    file = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            Path | None, typer.Option("--config", help="TOML file of settings; flags go first.")
        ],
    )
    signature = inspect.Signature([file, *flags.parameters(TrainConfig)])
    train.__signature__ = signature  # type: ignore[attr-defined]
    app = typer.Typer(
        add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(name="train", help=SUMMARY)(train)
    return typer.main.get_command(app)


def run(values: dict[str, Any]) -> None:
    """Train with the settings of a file, overlaid by flags.

    Args:
        values: `config`, a path or None, and the flags' values by parameter name.
    """
    from ghn.training import TrainConfig, train

    path = values.pop("config")
    try:
        base = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read settings from {path}: {error}") from error
    train(TrainConfig.from_dict(flags.collect(TrainConfig, values, base)))
