"""Settings as frozen dataclasses that survive a round trip through JSON and TOML.

A config lists every setting with its default, refuses what it does not know, and checks values in
`__post_init__`. A field may itself be a config.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from ghn.errors import ConfigError

__all__ = ["Config"]

C = TypeVar("C", bound="Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base class of all settings; see the module's docstring."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON types.

        Tuples become lists; a field that is a config becomes a dict with its class under `"type"`.
        """
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls: type[C], values: dict[str, Any]) -> C:
        """Build a config from plain values.

        Args:
            values: Field names to values; missing fields take their defaults.

        Raises:
            ConfigError: If a key is unknown, or a value has the wrong type or range.
        """
        hints = typing.get_type_hints(cls)
        fields = {f.name for f in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                known = ", ".join(sorted(fields))
                raise ConfigError(f"{cls.__name__} has no setting {key!r}{hint}. Known: {known}")
        return cls(**{k: _typed(v, hints[k], f"{cls.__name__}.{k}") for k, v in values.items()})

    @classmethod
    def from_toml(cls: type[C], path: str | Path) -> C:
        """Read a config from a TOML file.

        Raises:
            ConfigError: If the file cannot be read or parsed, or holds a wrong setting.
        """
        try:
            return cls.from_dict(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"cannot read settings from {path}: {error}") from error

    def replace(self: C, **changes: Any) -> C:
        """Return a copy with some settings changed."""
        return dataclasses.replace(self, **changes)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return {"type": type(value).__name__, **value.to_dict()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
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
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    is_type = isinstance(plain, type)
    if is_type and (not isinstance(value, plain) or (plain is not bool and value is True)):
        raise ConfigError(f"{where} must be {plain.__name__}, got {value!r}")
    return value


def _typed_config(value: Any, hint: type[C], where: str) -> C:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table of settings, got {value!r}")
    values = dict(value)
    kind = values.pop("type", hint.__name__)
    if kind != hint.__name__:
        raise ConfigError(f"{where} has type {kind!r}, not {hint.__name__!r}")
    return hint.from_dict(values)


def _typed_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _typed(value, option, where)
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError(f"{where} got {value!r}, which fits none of its types: {'; '.join(problems)}")


def _typed_tuple(value: Any, items: tuple[Any, ...], where: str) -> Any:
    if not isinstance(value, (tuple, list)):
        raise ConfigError(f"{where} must be a list, got {value!r}")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_typed(v, items[0], where) for v in value)
    if len(items) != len(value):
        raise ConfigError(f"{where} must have {len(items)} entries, got {len(value)}: {value!r}")
    return tuple(_typed(v, t, where) for v, t in zip(value, items, strict=True))
