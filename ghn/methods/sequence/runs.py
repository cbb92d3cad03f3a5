"""Runs of several learners over seeds: settings in layers, files to go on from, spreads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ghn.config import plain_values
from ghn.errors import ConfigError

__all__ = ["Progress", "laid_over", "resumed"]

L = TypeVar("L")

Progress = Callable[[int, int, str], None]
"""Called with work done, work in all, and a text."""


def laid_over(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay plain settings over one another, the last on top; nested ones one level deep."""
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = {**found[key], **value} if both else value
    return found


def resumed(
    path: Path | None,
    load: Callable[[Path], tuple[L, dict[str, Any]]],
    settings: Mapping[str, Any],
) -> tuple[L, dict[str, Any]] | None:
    """Return the learner and the notes of a file, if there is one.

    Args:
        path: The file; the notes of a run hold `"settings"`.
        load: Reads it.
        settings: What identifies the run; a tuple is as good as a list.

    Raises:
        ConfigError: If the file belongs to a run with other settings, or no file could hold these.
    """
    wanted = plain_values(settings, "settings")
    if path is None or not path.is_file():
        return None
    learner, notes = load(path)
    found = notes.get("settings")
    if found != wanted:
        raise ConfigError(
            f"{path} holds a run with other settings ({found}) than these ({wanted}); choose "
            "another folder with --out"
        )
    return learner, notes
