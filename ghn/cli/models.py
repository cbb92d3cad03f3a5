"""The MODEL argument of commands, and options that several commands share."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ghn.errors import ConfigError

__all__ = [
    "AsJson",
    "CheckpointName",
    "ModelArguments",
    "ModelName",
    "given_options",
    "parse_model_arguments",
    "shell_command",
]

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="timm:NAME, torchvision:NAME, transformers:TYPE (or a folder with config.json), or "
        "path/to/file.py:FACTORY.",
        show_default=False,
    ),
]
ModelArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        metavar="KEY=VALUE",
        help="Argument of the model's constructor, such as num_classes=10; may be repeated.",
        show_default=False,
    ),
]
CheckpointName = Annotated[
    str | None, typer.Option(help="Checkpoint to predict from; default: the embedded one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the result as JSON.")]


def parse_model_arguments(pairs: list[str] | None) -> dict[str, Any]:
    """Read `KEY=VALUE` pairs; a value is JSON if it parses as such, else text.

    Raises:
        ConfigError: If a pair has no key or no `=`.

    Example:
        >>> parse_model_arguments(["num_classes=10", "act_layer=gelu"])
        {'num_classes': 10, 'act_layer': 'gelu'}
    """
    arguments: dict[str, Any] = {}
    for pair in pairs or []:
        key, found, value = pair.partition("=")
        if not found or not key.isidentifier():
            raise ConfigError(
                f"--model-arg needs KEY=VALUE, got {pair!r}; for example --model-arg num_classes=10"
            )
        try:
            arguments[key] = json.loads(value)
        except json.JSONDecodeError:
            arguments[key] = value
    return arguments


def shell_command(command: str, model: str, options: Mapping[str, object]) -> str:
    """Return a command line that does the same again.

    Args:
        command: Name of the command, after those of the groups that it is in.
        model: Its MODEL.
        options: Values by flag. A list is a flag that is repeated, a path's folder is left out,
            and what was not given (None, False, an empty list) is skipped.

    Example:
        >>> shell_command("graph", "timm:resnet18", {"--output": Path("/tmp/x.html")})
        'ghn graph timm:resnet18 --output x.html'
    """
    words = ["ghn", *command.split(), model]
    for flag, value in options.items():
        if value is True:
            words.append(flag)
        elif value is not None and value is not False and value != []:
            for item in value if isinstance(value, list) else [value]:
                words += [flag, item.absolute().name if isinstance(item, Path) else str(item)]
    return shlex.join(words)


def given_options(context: typer.Context) -> dict[str, object]:
    """Return the options that a command was called with, by flag, for `shell_command`."""
    options: dict[str, object] = {}
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.param_type_name == "option" and source and source.name == "COMMANDLINE":
            value = context.params[option.name or ""]
            off = value is False
            options[(option.secondary_opts if off else option.opts)[0]] = off or value
    return options
