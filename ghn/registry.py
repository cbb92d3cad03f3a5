"""Names for interchangeable parts: one generic class, one instance for each subpackage.

An entry is added by a decorator where the part is defined; a subpackage's `__init__` imports its
modules, so what is registered is what is imported and nothing is found by scanning folders.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from ghn.errors import ConfigError, UnknownNameError

__all__ = ["Registry", "build", "name_of", "unknown_name"]

T = TypeVar("T")


def unknown_name(kind: str, name: object, known: list[str], limit: int = 30) -> UnknownNameError:
    """Build the error for a name that is not among the known ones.

    Args:
        kind: What the name names, such as `"decoder"`.
        name: What was asked for.
        known: All valid names.
        limit: Most names to list in the message.

    Returns:
        An error whose message holds the nearest match and the list of names.
    """
    near = difflib.get_close_matches(str(name), known, n=3)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    shown = ", ".join(sorted(known)[:limit]) + (", ..." if len(known) > limit else "")
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Registered: {shown or 'none'}.")


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from names to entries, filled by a decorator.

    Args:
        kind: What an entry is, in the singular; used in messages.

    Example:
        >>> SHAPES: Registry[type] = Registry("shape")
        >>> @SHAPES.register("square")
        ... class Square: ...
        >>> SHAPES["square"] is Square
        True
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its argument under `name`.

        Raises:
            ConfigError: If the name is taken.
        """
        if name in self._entries:
            raise ConfigError(f"{self.kind} {name!r} is already registered; choose another name")

        def add(entry: T) -> T:
            self._entries[name] = entry
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except (KeyError, TypeError):  # the latter of what no dict can look up
            raise unknown_name(self.kind, name, list(self._entries)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def name_of(registry: Registry[Any], config: object) -> str:
    """Return the name of the entry whose class attribute `Config` is the class of some settings.

    Raises:
        ConfigError: If there is none.
    """
    for name, entry in registry.items():
        if entry.Config is type(config):
            return name
    raise ConfigError(f"no {registry.kind} is configured by {type(config).__name__}")


def build(registry: Registry[Any], config: object) -> Any:
    """Return a new instance of the entry that some settings are for, built as `cls(config)`."""
    return registry[name_of(registry, config)](config)
