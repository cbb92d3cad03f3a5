"""Scenes as tensors: images in which every pixel has a class.

Shape letters used in this file:
    N: images. H, W: height and width.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from ghn.data.find import find_data, folder_hash
from ghn.data.sheets import read_tiles
from ghn.errors import ConfigError, DataError

__all__ = ["SceneData", "load_scenes"]

TILES = {"camvid": (144, 192)}
SPLITS = ("train", "val", "test")
VOID = "void"


@dataclasses.dataclass(frozen=True)
class SceneData:
    """Images of one split, and the class of each of their pixels.

    Attributes:
        name: Data set and split, such as `"camvid/train"`.
        images: Pixels in [0, 255].
        labels: Class of each pixel; `len(classes)` where it has none.
        classes: Names of the classes.
        hash: Identifies the data in records of results.
    """

    name: str
    images: UInt8[Tensor, "N 3 H W"]
    labels: UInt8[Tensor, "N H W"]
    classes: tuple[str, ...]
    hash: str

    def __len__(self) -> int:
        return len(self.labels)


def load_scenes(name: str = "camvid", split: str = "train") -> SceneData:
    """Load a data set of segmented scenes, all of it into memory.

    Args:
        name: `"camvid"`: frames of drives at 192 x 144 pixels in 11 classes. See `ghn.data.find`
            for where it is looked for; it is not on the hub.
        split: `"train"`, `"val"` or `"test"`.

    Raises:
        DataError: If the data cannot be found or read.
        ConfigError: If there is no such data set or split.
    """
    if name not in TILES or split not in SPLITS:
        raise ConfigError(
            f"scenes are {', '.join(TILES)}, in {', '.join(SPLITS)}, got {name!r}, {split!r}"
        )
    folder = find_data(name, download=False)
    try:
        return _read(name, split, folder)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {name} ({split}) from {folder}: {error}") from error


@functools.lru_cache(maxsize=3)
def _read(name: str, split: str, folder: Path) -> SceneData:
    """Read sheets of images beside sheets of labels; the list of frames says how many there are."""
    classes = (folder / "classes.txt").read_text(encoding="utf-8").split()
    count = len((folder / f"{split}_frames.txt").read_text(encoding="utf-8").split())
    sheets = sorted(folder.glob(f"{split}_[0-9][0-9].*"))
    if classes[-1:] != [VOID] or not sheets:
        raise ValueError(f"classes that end in {VOID!r} and sheets are needed, got {classes}")
    images = np.concatenate([read_tiles(path, *TILES[name]) for path in sheets])[:count]
    marks = [path.with_name(f"{path.stem}_label.png") for path in sheets]
    labels = np.concatenate([read_tiles(path, *TILES[name], mode="L") for path in marks])[:count]
    if not len(images) == len(labels) == count or labels.max() >= len(classes):
        raise ValueError(f"{count} frames, {len(images)} images, labels of {len(labels)} of them")
    return SceneData(
        name=f"{name}/{split}",
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(labels),
        classes=tuple(classes[:-1]),
        hash=folder_hash(folder),
    )
