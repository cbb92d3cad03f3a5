"""Settings as frozen dataclasses that survive a round trip through JSON and TOML.

A config lists every setting with its default, refuses what it does not know and values of another
type, and checks ranges in `__post_init__`. A field may itself be a config.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import numbers
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ghn.errors import ConfigError

__all__ = ["Config", "check_at_least", "check_distinct", "plain_values"]

C = TypeVar("C", bound="Config")


class _Typed(type):
    """Class of config classes: values get the types of their fields before a config is made."""

    def __call__(cls, **values: Any) -> Any:
        hints = _hints(cls)
        for name, value in values.items():
            if name in hints:
                values[name] = _typed(value, hints[name], f"{cls.__name__}.{name}")
        return super().__call__(**values)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the types of a config's fields by name."""
    return typing.get_type_hints(cls)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(metaclass=_Typed):
    """Base class of all settings; see the module's docstring.

    A number, a list or a dict becomes the float, the tuple or the config that a field is for.

    Raises:
        ConfigError: If a value has the wrong type or range.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON types.

        Tuples become lists; a field that is a config becomes a dict with its class under `"type"`.
        """
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls: type[C], values: Any) -> C:
        """Build a config from plain values.

        Args:
            values: A dict from field names to values; missing fields take their defaults.

        Raises:
            ConfigError: If it is no dict, a key is unknown, or a value has the wrong type or range.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"settings are a table of names and values, got {values!r}")
        fields = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                known = ", ".join(sorted(fields))
                raise ConfigError(f"{cls.__name__} has no setting {key!r}{hint}. Known: {known}")
        return cls(**values)

    @classmethod
    def from_toml(cls: type[C], path: str | Path) -> C:
        """Read a config from a TOML file.

        Raises:
            ConfigError: If the file cannot be read or parsed, or holds a wrong setting.
        """
        try:
            return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"cannot read settings from {path}: {error}") from error

    def replace(self: C, **changes: Any) -> C:
        """Return a copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def check_distinct(**settings: Sequence[Any]) -> None:
    """Refuse settings that name something twice: it would count twice in means and tables.

    Raises:
        ConfigError: If a value of a setting is there twice.
    """
    for name, values in settings.items():
        if len(set(values)) < len(values):
            raise ConfigError(f"{name} must differ, each would count twice, got {tuple(values)}")


def check_at_least(least: float | int, **settings: float | int) -> None:
    """Refuse settings below a number; nan is below all.

    Raises:
        ConfigError: With the name of the first one.
    """
    for name, value in settings.items():
        if not value >= least:
            raise ConfigError(f"{name} must be at least {least:g}, got {value:g}")


def plain_values(value: Any, where: str) -> Any:
    """Return a value as the JSON types that a file gives back: tuples as lists, configs as dicts.

    Args:
        value: Texts, numbers, lists, dicts, configs, nested.
        where: What it is, for the error.

    Raises:
        ConfigError: If it is or holds anything else, such as a tensor.
    """
    try:
        return json.loads(json.dumps(_plain(value)))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where} must be texts, numbers, lists and dicts, which a file can hold ({error}), "
            f"got {value!r}"
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return {"type": type(value).__name__, **value.to_dict()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _typed(value: Any, hint: Any, where: str) -> Any:
    """Convert a plain value to the annotated type; refuse what does not fit."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _typed_union(value, typing.get_args(hint), where)
    if isinstance(hint, type) and issubclass(hint, Config):
        return value if isinstance(value, hint) else _typed_config(value, hint, where)
    if origin is tuple:
        return _typed_tuple(value, typing.get_args(hint), where)
    if hint in (int, float):
        return _typed_number(value, hint, where)
    kind = origin or hint
    if isinstance(kind, type) and not isinstance(value, kind):
        raise ConfigError(f"{where} must be {kind.__name__}, got {value!r}")
    return value


def _typed_number(value: Any, hint: type, where: str) -> Any:
    """Convert a number, NumPy's too; a fraction is no int, and True is neither."""
    wide = numbers.Integral if hint is int else numbers.Real
    if not isinstance(value, wide) or isinstance(value, bool):
        raise ConfigError(f"{where} must be {hint.__name__}, got {value!r}")
    return hint(value)


def _typed_config(value: Any, hint: type[C], where: str) -> C:
    if not isinstance(value, dict):
        raise ConfigError(
            f"{where} must be {hint.__name__} or a table of its settings, got {value!r}"
        )
    values = dict(value)
    kind = values.pop("type", hint.__name__)
    if kind != hint.__name__:
        raise ConfigError(f"{where} has type {kind!r}, not {hint.__name__!r}")
    return hint.from_dict(values)


def _typed_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    wanted = [option for option in options if option is not type(None)]
    if isinstance(value, dict):  # one that is named has to explain what is wrong, no other
        wanted = [o for o in wanted if value.get("type") == getattr(o, "__name__", "")] or wanted
    problems = []
    for option in wanted:
        try:
            return _typed(value, option, where)
        except ConfigError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise ConfigError(problems[0])
    raise ConfigError(f"{where} got {value!r}, which fits none of its types: {'; '.join(problems)}")


def _typed_tuple(value: Any, items: tuple[Any, ...], where: str) -> Any:
    if not isinstance(value, (tuple, list)):
        raise ConfigError(f"{where} must be a list, got {value!r}")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_typed(v, items[0], where) for v in value)
    if len(items) != len(value):
        raise ConfigError(f"{where} must have {len(items)} entries, got {len(value)}: {value!r}")
    return tuple(_typed(v, t, where) for v, t in zip(value, items, strict=True))
