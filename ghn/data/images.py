"""Labelled images as tensors, and what is done to a batch of them.

Shape letters used in this file:
    N: images. C: channels. H, W: height and width.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from ghn.data.find import find_data, folder_hash
from ghn.data.hub import HUB, read_parquet
from ghn.errors import ConfigError, DataError

__all__ = ["ImageData", "augment", "load_images", "normalize"]

SIDE = 32
HELD_OUT = 5_000  # training images that choices are made on; never trained on with them held out
SHIFT = 4


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images and labels of one split.

    Attributes:
        name: Data set and split, such as `"cifar10/train"`.
        images: Pixels in [0, 255].
        labels: Class of each image.
        classes: Names of the classes.
        hash: Identifies the data in records of results.
    """

    name: str
    images: UInt8[Tensor, "N C H W"]
    labels: Int64[Tensor, " N"]
    classes: tuple[str, ...]
    hash: str

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor | slice) -> ImageData:
        """Return some of the images."""
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])


def load_images(name: str, split: str = "train") -> ImageData:
    """Load a data set of small images, all of it into memory.

    Args:
        name: `"cifar10"` or `"cifar100"` (see `ghn.data.find` for where they are looked for), or
            `"digits"`, scikit-learn's, which every machine has, enlarged to 32 x 32.
        split: `"train"`, `"test"`; or for choices `"fit"` and `"val"`, which divide `"train"`: the
            last 5,000 images (a fifth, where there are fewer than 25,000) are `"val"`.

    Raises:
        DataError: If the data cannot be found or read.
        ConfigError: If there is no such data set or split.
    """
    if split not in ("train", "test", "fit", "val"):
        raise ConfigError(f"split must be train, test, fit or val, got {split!r}")
    whole = _load_whole(name, "test" if split == "test" else "train")
    if split in ("train", "test"):
        return whole
    held = min(HELD_OUT, len(whole) // 5)
    part = slice(0, len(whole) - held) if split == "fit" else slice(len(whole) - held, None)
    return dataclasses.replace(whole.take(part), name=f"{name}/{split}")


@functools.lru_cache(maxsize=4)
def _load_whole(name: str, split: str) -> ImageData:
    if name == "digits":
        return _load_digits(split)
    if name in ("cifar10", "cifar100"):
        folder = find_data(name)
        files = sorted(folder.rglob(f"{split}-*.parquet"))
        load = functools.partial(_load_parquet, files) if files else _load_sheets
        return load(name, split, folder)
    raise ConfigError(f"unknown image data {name!r}; known: cifar10, cifar100, digits")


def _load_digits(split: str) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16.0 * 255.0).float()[:, None]
    large = F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear").round().clamp(0, 255)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    chosen = order[:-360] if split == "train" else order[-360:]
    return ImageData(
        name=f"digits/{split}",
        images=large.to(torch.uint8).expand(-1, 3, -1, -1)[chosen].contiguous(),
        labels=torch.from_numpy(digits.target).long()[chosen],
        classes=tuple(str(c) for c in digits.target_names),
        hash="sklearn-digits",
    )


def _load_parquet(files: list[Path], name: str, split: str, folder: Path) -> ImageData:
    images, labels, classes = read_parquet(files, HUB[name])
    return ImageData(
        name=f"{name}/{split}",
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(labels),
        classes=classes,
        hash=folder_hash(folder),
    )


def _load_sheets(name: str, split: str, folder: Path) -> ImageData:
    """Read tiles from contact sheets, row by row: pictures of 32 x 32 tiles beside their labels."""
    try:
        labels = np.load(folder / f"{split}_labels.npy", allow_pickle=False)
        lines = (folder / "classes.txt").read_text(encoding="utf-8").split("\n")
        sheets = sorted(folder.glob(f"{split}_[0-9][0-9].*"))
        tiles = np.concatenate([_tiles(path) for path in sheets])[: len(labels)]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {name} from {folder}: {error}") from error
    if len(tiles) != len(labels):
        raise DataError(f"{folder} has {len(tiles)} images but {len(labels)} labels for {split}")
    return ImageData(
        name=f"{name}/{split}",
        images=torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(labels).long(),
        classes=tuple(line.split("\t")[0] for line in lines if line),
        hash=folder_hash(folder),
    )


def _tiles(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    rows, columns = pixels.shape[0] // SIDE, pixels.shape[1] // SIDE
    grid = pixels.reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
    return grid.reshape(rows * columns, SIDE, SIDE, 3)


def normalize(images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """Map pixels to about zero mean and unit variance; one rule for all data: (x - 120) / 63."""
    return (images.float() - 120.0) / 63.0


def augment(
    images: UInt8[Tensor, "N C H W"], generator: torch.Generator
) -> UInt8[Tensor, "N C H W"]:
    """Flip images left to right at random and shift each by up to 4 pixels, filling with zeros.

    Args:
        images: Pixels.
        generator: Where the draws come from.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT))
    top = torch.randint(0, 2 * SHIFT + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * SHIFT + 1, (count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = torch.arange(width).expand(count, -1)
    columns = left + torch.where(flip, width - 1 - columns, columns)
    picked = torch.arange(count)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picked, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
