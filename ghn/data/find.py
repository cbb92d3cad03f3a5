"""Where data sets are looked for: `GHN_DATA`, then a cache folder, then the Hugging Face hub.

No data set ships with the library. `GHN_DATA` names a folder with one subfolder for each data set;
the cache folder is `$XDG_CACHE_HOME/ghn` or `~/.cache/ghn`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ghn.data.files import files_below, is_hidden
from ghn.data.hub import HUB_PREFIX, fetch
from ghn.errors import ConfigError, DataError
from ghn.io import cache_folder, expanded

__all__ = ["find_data", "folder_hash", "resolved"]


def find_data(name: str, *, download: bool = True) -> Path:
    """Return the folder of a data set.

    Args:
        name: Such as `"cifar10"`, or `"hf:OWNER/NAME"` for one on the hub, whose folder is then
            called `OWNER--NAME`; `"hf:OWNER/NAME/FOLDER"` for a part of it.
        download: Whether to fetch it from the Hugging Face hub into the cache folder if it is in
            neither folder; `HF_HUB_OFFLINE=1` forbids that too.

    Raises:
        DataError: If it is in none of the places; the message names them.
        ConfigError: If what follows `"hf:"` is no such name.
    """
    parts = name.removeprefix(HUB_PREFIX).split("/")
    if name.startswith(HUB_PREFIX) and {"", ".", ".."} & {*parts}:
        raise ConfigError(f"a data set of the hub is named hf:OWNER/NAME, got {name!r}")
    given = os.environ.get("GHN_DATA")
    folder = name.removeprefix(HUB_PREFIX).replace("/", "--")
    cached = cache_folder() / folder
    places = [Path(given) / folder] if given else []
    for place in (*places, cached):
        if place.is_dir():
            return place
    hub = "not on the Hugging Face hub"
    if download:
        try:
            return fetch(name, cached)
        except DataError as error:
            hub = f"on the Hugging Face hub ({error})"
    raise DataError(
        f"data set {name!r} not found: looked in $GHN_DATA/{folder} (GHN_DATA is "
        f"{given or 'not set'}), in {cached}, and {hub}. Set GHN_DATA to a folder that has it, or "
        "put it into the cache folder"
    )


def resolved(name: str) -> Path:
    """Return where a path leads now: what is kept in memory by name must not outlive a `chdir`."""
    if not name:
        raise ConfigError("the name of a data set is empty")
    try:
        return expanded(name).resolve()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name!r} is no data set and no path: {error}") from error


def folder_hash(folder: Path) -> str:
    """Return a short hash of the names and contents of a folder's files, for records of results.

    It is what readers see of it: without what is hidden.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in files_below(folder):
        name = path.relative_to(folder)
        if is_hidden(name):
            continue
        content = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        digest.update(f"{name.as_posix()}:{content}\n".encode())
    return digest.hexdigest()
