"""Files of a data set's folder, as all readers see them."""

from __future__ import annotations

from pathlib import Path

from ghn.errors import DataError

__all__ = ["files_below", "is_hidden"]


def files_below(folder: Path) -> list[Path]:
    """Return all files in a folder and in its folders, sorted; links are followed, but not back up.

    Raises:
        DataError: If a folder cannot be read.
    """
    found: list[Path] = []
    left = [(folder, {folder.resolve()})]
    while left:
        place, above = left.pop()
        try:
            for path in place.iterdir():
                if path.is_file():
                    found.append(path)
                elif path.is_dir() and (real := path.resolve()) not in above:
                    left.append((path, above | {real}))
        except OSError as error:
            raise DataError(f"cannot read the folder {place}: {error}") from error
    return sorted(found)


def is_hidden(path: Path) -> bool:
    """Whether a file is one that programs leave behind: it or a folder begins with a dot.

    Args:
        path: Relative to the folder of the data.
    """
    return any(part.startswith(".") for part in path.parts)
