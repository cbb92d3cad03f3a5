"""Where data sets are looked for: `GHN_DATA`, then a cache folder.

No data set ships with the library. `GHN_DATA` names a folder with one subfolder for each data set;
the cache folder is `$XDG_CACHE_HOME/ghn` or `~/.cache/ghn`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ghn.errors import DataError

__all__ = ["cache_folder", "find_data", "folder_hash"]


def cache_folder() -> Path:
    """Return the folder where data and graphs are cached; it may not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ghn"


def find_data(name: str) -> Path:
    """Return the folder of a data set.

    Args:
        name: Such as `"cifar10"`.

    Raises:
        DataError: If it is in none of the places; the message names them.
    """
    given = os.environ.get("GHN_DATA")
    places = [Path(given) / name] if given else []
    places.append(cache_folder() / name)
    for place in places:
        if place.is_dir():
            return place
    raise DataError(
        f"data set {name!r} not found: looked in $GHN_DATA/{name} (GHN_DATA is "
        f"{given or 'not set'}) and in {cache_folder() / name}. Set GHN_DATA to a folder that has "
        "it, or put it into the cache folder, downloaded from the Hugging Face hub or elsewhere"
    )


def folder_hash(folder: Path) -> str:
    """Return a short hash of the names and contents of a folder's files, for records of results."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}:{content}\n".encode())
    return digest.hexdigest()
