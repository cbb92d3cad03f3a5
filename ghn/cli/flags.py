"""Flags made from a config's fields, so that the command line and the settings cannot drift apart.

A field `rate` becomes `--rate`; the fields of a nested config `ghn` become `--ghn.dim` and so on
(of one that may be None, `--ghn` in JSON, unless the field's metadata say `"nested"`).
Help texts are those under `Attributes:` in the config's docstring. A flag that is not given leaves
the field to the settings file, else to its default.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from ghn.config import Config, plain_values
from ghn.errors import ConfigError

__all__ = ["build_command", "collect", "parameters"]


def build_command(
    name: str,
    summary: str,
    config: type[Config],
    run: Callable[[dict[str, Any]], None],
    further: Mapping[str, Any],
) -> Any:
    """Return a command with one flag for each setting.

    Args:
        name: Of the command.
        summary: Its help.
        config: Where the settings are.
        run: Called with the flags' values by parameter name.
        further: Names and annotations of flags beside them; None by default.
    """

    def command(**values: Any) -> None:
        run(values)

    own = [
        inspect.Parameter(flag, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for flag, annotation in further.items()
    ]
    signature = inspect.Signature([*own, *parameters(config)])
    command.__signature__ = signature  # type: ignore[attr-defined]
    app = typer.Typer(
        add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(name=name, help=summary)(command)
    return typer.main.get_command(app)


def parameters(config: type[Config]) -> list[inspect.Parameter]:
    """Return one parameter of a command function for each setting, annotated for typer."""
    return [
        inspect.Parameter(
            _variable(path),
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_annotation(path, hint, help_text, default),
        )
        for path, hint, help_text, default in _settings(config, ())
    ]


def collect(config: type[Config], given: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Lay the flags that were given over plain settings.

    Args:
        config: What `parameters` was made from.
        given: Values by parameter name; None or an empty list says "not given".
        base: Settings to start from, such as those of a file; not changed.

    Returns:
        Plain values for `config.from_dict`.
    """
    merged: dict[str, Any] = plain_values(base, "settings")
    for path, hint, _, _ in _settings(config, ()):
        value = given.get(_variable(path))
        if value is None or value == []:
            continue
        place = merged
        for depth, part in enumerate(path[:-1], 1):
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
            if not isinstance(place, dict):
                raise ConfigError(f"{'.'.join(path[:depth])} must be a table of settings")
        place[path[-1]] = value if _flag_type(hint) is not None else _from_json(path, value)
    return merged


def _settings(
    config: type[Config], prefix: tuple[str, ...]
) -> typing.Iterator[tuple[tuple[str, ...], Any, str, Any]]:
    """Yield path, type, help text and default of each setting, nested ones flattened."""
    hints = typing.get_type_hints(config)
    texts = _attribute_texts(config)
    for field in dataclasses.fields(config):
        hint, path = hints[field.name], (*prefix, field.name)
        if field.metadata.get("nested"):  # a config or None, with flags of its own all the same
            hint = next(item for item in typing.get_args(hint) if item is not type(None))
        if isinstance(hint, type) and issubclass(hint, Config):
            yield from _settings(hint, path)
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield path, hint, texts.get(field.name, ""), default


def _attribute_texts(config: type[Config]) -> dict[str, str]:
    """Read the `Attributes:` block of a docstring: names to texts on one line."""
    doc = inspect.getdoc(config) or ""
    _, _, block = doc.partition("Attributes:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        entry = re.match(r" {4}(\w+):\s*(.*)", line)
        if entry:
            name = entry[1]
            texts[name] = entry[2]
        elif name and line.startswith(" " * 8):
            texts[name] += " " + line.strip()
        elif line.strip():
            break
    return texts


def _variable(path: tuple[str, ...]) -> str:
    return "__".join(path)


def _flag_type(hint: Any) -> Any:
    """Return the type that typer parses for a field, or None if it is to be given as JSON."""
    origin, items = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [item for item in items if item is not type(None)]
        return _flag_type(options[0]) if len(options) == 1 else None
    if hint in (int, float, str, bool):
        return hint
    if origin is typing.Literal and all(isinstance(item, str) for item in items):
        return str
    if origin is tuple and len(set(items) - {Ellipsis}) == 1 and items[0] in (int, float, str):
        return types.GenericAlias(list, items[0])
    return None


def _annotation(path: tuple[str, ...], hint: Any, text: str, default: Any) -> Any:
    kind = _flag_type(hint)
    flag = "--" + ".".join(path).replace("_", "-")
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    shown = "" if default is dataclasses.MISSING else f" [default: {_show(default)}]"
    hidden = " (JSON)" if kind is None else ""
    if isinstance(kind, types.GenericAlias):
        shown = f" [may be repeated{shown.replace(' [', '; ') or ']'}"
    # Brackets would be read as markup, and backticks say nothing on a terminal.
    plain = re.sub('`"?|"?`', "", text)
    help_text = escape(f"{plain}{hidden}{shown}")
    option = typer.Option(*names, help=help_text, show_default=False)
    return Annotated[(kind or str) | None, option]


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _from_json(path: tuple[str, ...], text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--{'.'.join(path)} needs JSON, got {text!r}: {error}") from error
