"""The last place where data is looked for: the Hugging Face hub, as parquet files.

A data set is fetched once, into a folder beside its place in the cache, and renamed when complete.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from ghn.data.files import files_below
from ghn.data.pictures import read_picture
from ghn.errors import DataError
from ghn.io import current_umask

__all__ = ["HUB", "HUB_PREFIX", "fetch", "parquet_files", "read_images", "read_texts"]

HUB_PREFIX = "hf:"
HUB = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "mnist": "ylecun/mnist",
    "wikitext2": "Salesforce/wikitext",
}
"""Where the hub keeps the data sets that have names of their own."""

_PATTERNS = {"wikitext2": "wikitext-2-v1/*.parquet"}  # the edition with <unk>, as in GHN_DATA
MOST_CLASSES = 100_000
_LABELS = ("label", "fine_label", "labels", "class")
_SPLITS = {"train": ("train",), "val": ("validation", "valid", "val"), "test": ("test",)}


def fetch(name: str, target: Path) -> Path:
    """Download a data set's parquet files to `target`, which appears only when it is complete.

    Args:
        name: Name in `HUB`, `"hf:OWNER/NAME"`, or `"hf:OWNER/NAME/FOLDER"` for one of its folders.
        target: The new folder.

    Raises:
        DataError: If the hub has no such data set, cannot be reached, or the disk is full.
    """
    from huggingface_hub import snapshot_download

    if not name.startswith(HUB_PREFIX) and name not in HUB:
        raise DataError(f"{name!r} is none of the data sets on the hub: {', '.join(HUB)}")
    parts = HUB.get(name, name.removeprefix(HUB_PREFIX)).split("/")
    repo, folder = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    except OSError as error:
        raise DataError(f"cannot write to {target.parent}: {error}") from error
    try:
        pattern = _PATTERNS.get(name, f"{folder}/*.parquet" if folder else "*.parquet")
        snapshot_download(repo, repo_type="dataset", allow_patterns=pattern, local_dir=partial)
        if not any(partial.rglob("*.parquet")):
            raise DataError("it has no parquet files, and nothing else is read")
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub's notes, with times
        _put(partial, target)
    except Exception as error:  # the hub's, the network's and the disk's errors share no base
        raise DataError(f"{repo} on the Hugging Face hub: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _put(partial: Path, target: Path) -> None:
    partial.chmod(0o777 & ~current_umask())  # temporary folders are their owner's alone
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster
            raise


def parquet_files(folder: Path, split: str) -> list[Path]:
    """Return the files of a split, named as the hub names them: `train-00000-of-00001.parquet`.

    Raises:
        DataError: If they lie in several folders: these are data sets of their own.
    """
    stems = _SPLITS[split]
    files = [p for p in files_below(folder) if p.suffix == ".parquet"]
    found = [p for p in files if p.name.split("-")[0] in stems]
    found = found or [p for p in files if p.stem in stems]
    if len(places := sorted({p.parent for p in found})) > 1:
        names = ", ".join(place.relative_to(folder).as_posix() for place in places)
        raise DataError(
            f"{folder} holds several data sets: {names}; name one of them, as in "
            f"hf:OWNER/NAME/{places[0].relative_to(folder).as_posix()}"
        )
    return found


def read_images(
    files: list[Path], others: list[Path], mixed: bool = True
) -> tuple[Iterator[Any], Int64[np.ndarray, " N"], tuple[str, ...]]:
    """Return pictures (PIL, RGB), labels and the classes' names of one split's files.

    Pictures are read one by one; one that is damaged is an error (`DataError`) when its turn comes.

    Args:
        files: Of the split.
        others: Of all splits: without names, there are as many classes as their labels say.
        mixed: Whether they come in a random order, always the same: many lie class by class, and
            any part of them is to have all.

    Raises:
        DataError: If pyarrow is not installed, or the files hold no images with labels.
    """
    try:
        tables = _read_tables(files)
        image, label = _image_columns(tables[0].schema)
        encoded = [cell["bytes"] for table in tables for cell in table[image].to_pylist()]
        labels = _labels(tables, label)
        names = _names(tables[0].schema, label)
        if not names:
            all_labels = _labels(_read_tables(others, [label]), label)
            names = tuple(str(i) for i in range(int(all_labels.max()) + 1))
        if labels.max() >= len(names) or len(names) > MOST_CLASSES:
            raise ValueError(f"labels up to {labels.max()} are not of {len(names)} classes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {files[0]} as labelled images: {error}") from error
    if mixed:
        order = np.random.default_rng(0).permutation(len(labels))
        encoded, labels = [encoded[i] for i in order], labels[order]
    pictures = (read_picture(io.BytesIO(data), f"an image of {files[0]}") for data in encoded)
    return pictures, labels, names


def read_texts(files: list[Path]) -> bytes:
    """Return the texts of one split's files, one after another; each ends with its line.

    Raises:
        DataError: If pyarrow is not installed, or the files have no column of texts.
    """
    try:
        return b"".join(
            (text if text.endswith("\n") else f"{text}\n").encode()
            for table in _read_tables(files)
            for text in table["text"].to_pylist()
            if text is not None
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"cannot read {files[0]} as texts: {error}") from error


def _labels(tables: list[Any], column: str) -> Int64[np.ndarray, " N"]:
    """Return the labels of tables, one after another."""
    if any(table[column].null_count for table in tables):
        raise ValueError(f"some of {column!r} are missing")
    labels = np.concatenate([table[column].to_numpy() for table in tables]).astype(np.int64)
    if not len(labels) or labels.min() < 0:
        raise ValueError(f"{column!r} must hold numbers of classes from 0, got {labels[:3]}")
    return labels


def _read_tables(files: list[Path], columns: list[str] | None = None) -> list[Any]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            f"reading {files[0]} needs pyarrow: pip install 'ghn[data]', or put the data set into "
            "GHN_DATA in another layout"
        ) from error
    return [pq.read_table(path, columns=columns) for path in files]


def _image_columns(schema: Any) -> tuple[str, str]:
    """Return the columns of encoded images and of labels."""
    import pyarrow as pa

    images = [
        f.name
        for f in schema
        if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0
    ]
    numbers = [f.name for f in schema if pa.types.is_integer(f.type)]
    labels = [name for name in _LABELS if name in numbers]
    labels = labels or [name for name in numbers if _names(schema, name)]
    if not images or not labels:
        raise ValueError(
            f"no column of images, or none of labels ({', '.join(_LABELS)}, or one with names of "
            f"classes), among {schema.names}"
        )
    return images[0], labels[0]


def _names(schema: Any, label: str) -> tuple[str, ...]:
    """Return the names of classes that the hub's data sets keep beside their columns, if any."""
    try:
        info = json.loads(schema.metadata[b"huggingface"])
        return tuple(info["info"]["features"][label]["names"])
    except (TypeError, KeyError, ValueError):
        return ()
