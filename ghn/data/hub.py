"""The last place where data is looked for: the Hugging Face hub, as parquet files.

A data set is fetched once, into a folder beside its place in the cache, and renamed when complete.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from ghn.errors import DataError

__all__ = ["HUB", "HubDataset", "fetch", "read_parquet"]


@dataclasses.dataclass(frozen=True)
class HubDataset:
    """Where the hub keeps a data set of labelled images.

    Attributes:
        repo: Hub id.
        image: Column of the encoded images.
        label: Column of the labels.
    """

    repo: str
    image: str
    label: str


HUB = {
    "cifar10": HubDataset("uoft-cs/cifar10", "img", "label"),
    "cifar100": HubDataset("uoft-cs/cifar100", "img", "fine_label"),
}


def fetch(name: str, target: Path) -> Path:
    """Download a data set's parquet files to `target`, which appears only when it is complete.

    Raises:
        DataError: If the hub has no such data set, cannot be reached, or the disk is full.
    """
    from huggingface_hub import snapshot_download

    if name not in HUB:
        raise DataError(f"{name!r} is none of the data sets on the hub: {', '.join(HUB)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    except OSError as error:
        raise DataError(f"cannot write to {target.parent}: {error}") from error
    try:
        snapshot_download(
            HUB[name].repo, repo_type="dataset", allow_patterns="*.parquet", local_dir=partial
        )
        partial.rename(target)
    except Exception as error:  # the hub's, the network's and the disk's errors share no base
        raise DataError(f"{HUB[name].repo} on the Hugging Face hub: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def read_parquet(
    files: list[Path], dataset: HubDataset
) -> tuple[UInt8[np.ndarray, "N H W 3"], Int64[np.ndarray, " N"], tuple[str, ...]]:
    """Return images, labels and the classes' names of one split's files.

    Raises:
        DataError: If pyarrow is not installed, or a file is not what the hub's data sets are.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            f"reading {files[0]} needs pyarrow: pip install 'ghn[data]', or put the data set into "
            "GHN_DATA in another layout"
        ) from error
    from PIL import Image

    try:
        tables = [pq.read_table(path, columns=[dataset.image, dataset.label]) for path in files]
        cells = [cell for table in tables for cell in table[dataset.image].to_pylist()]
        images = [np.asarray(Image.open(io.BytesIO(c["bytes"])).convert("RGB")) for c in cells]
        labels = np.concatenate([table[dataset.label].to_numpy() for table in tables])
        return np.stack(images), labels.astype(np.int64), _names(tables[0], dataset, labels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {files[0]} as {dataset.repo}: {error}") from error


def _names(table: Any, dataset: HubDataset, labels: Int64[np.ndarray, " N"]) -> tuple[str, ...]:
    """Return the names that the hub's data sets keep beside their columns, else numbers."""
    try:
        info = json.loads(table.schema.metadata[b"huggingface"])
        return tuple(info["info"]["features"][dataset.label]["names"])
    except (TypeError, KeyError, ValueError):
        return tuple(str(i) for i in range(int(labels.max()) + 1))
