"""Labelled images as tensors, and what is done to a batch of them.

Shape letters used in this file:
    N: images. C: channels. H, W: height and width.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from ghn.config import check_at_least
from ghn.data.files import files_below, is_hidden
from ghn.data.find import find_data, folder_hash, resolved
from ghn.data.hub import HUB_PREFIX, parquet_files, read_images
from ghn.data.pictures import read_picture
from ghn.data.sheets import read_tiles
from ghn.errors import ConfigError, DataError

__all__ = ["ImageData", "augment", "load_images", "normalize"]

SIDE = 32
TILE = 32
HELD_OUT = 5_000  # training images that choices are made on; never trained on with them held out
BYTES_IN_IDX = 8  # the format's word for unsigned bytes

Pictures = tuple[Iterable[Any] | np.ndarray, np.ndarray, tuple[str, ...]]
"""PIL pictures in RGB, each read when it is asked for, or an array; labels; names of classes."""


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

    def to(self, device: torch.device) -> ImageData:
        """Return them on a device."""
        images, labels = self.images.to(device), self.labels.to(device)
        return dataclasses.replace(self, images=images, labels=labels)


def load_images(name: str, split: str = "train", side: int = SIDE) -> ImageData:
    """Load a data set of small images, all of it into memory.

    Args:
        name: `"cifar10"`, `"cifar100"` or `"mnist"` (see `ghn.data.find` for where they are looked
            for); `"digits"`, scikit-learn's, which every machine has; `"hf:OWNER/NAME"` for images
            with labels on the Hugging Face hub; or a path to a folder of your own images, `train`
            and `test` (or `validation`) with a folder for each class in both, or only the folders
            of classes, of which every tenth image is then a test image.
        split: `"train"`, `"test"`; or for choices `"fit"` and `"val"`, which divide `"train"`: the
            last 5,000 images (a fifth, where there are fewer than 25,000) are `"val"`.
        side: Height and width in pixels; larger images are cut to a square first.

    Raises:
        DataError: If the data cannot be found or read.
        ConfigError: If there is no such data set or split, or `side` is below 1.
    """
    if split not in ("train", "test", "fit", "val"):
        raise ConfigError(f"split must be train, test, fit or val, got {split!r}")
    check_at_least(1, side=side)
    whole = _load_whole(name, "test" if split == "test" else "train", side, _place(name))
    if split in ("train", "test"):
        return whole
    held = min(HELD_OUT, len(whole) // 5)
    if not held:
        raise DataError(f"{name} has {len(whole)} training images, too few to keep some for val")
    part = slice(0, len(whole) - held) if split == "fit" else slice(len(whole) - held, None)
    return dataclasses.replace(whole.take(part), name=f"{name}/{split}")


def _place(name: str) -> Path:
    """Return the folder that a name means now."""
    if name in _READERS or name.startswith(HUB_PREFIX):
        return find_data(name).resolve()
    return resolved(name)


@functools.lru_cache(maxsize=4)
def _load_whole(name: str, split: str, side: int, folder: Path) -> ImageData:
    """Load the data set of a folder once."""
    pictures: Iterable[Any] | np.ndarray
    if name == "digits":
        return _load_digits(split, side)
    if name in _READERS or name.startswith(HUB_PREFIX):
        files = parquet_files(folder, split)
        if split == "test" and not files:  # its own `val` is a part of the training images
            files = parquet_files(folder, "val")
        if files:
            others = [p for s in ("train", "val", "test") for p in parquet_files(folder, s)]
            pictures, labels, classes = read_images(
                files, others, mixed=name.startswith(HUB_PREFIX)
            )
        elif name.startswith(HUB_PREFIX):
            raise DataError(f"{folder} has no parquet files of the split {split!r}")
        else:
            try:
                pictures, labels, classes = _READERS[name](split, folder)
            except (OSError, EOFError, ValueError, KeyError, IndexError, zlib.error) as error:
                raise DataError(
                    f"cannot read {name} ({split}) from {folder}: {error}; it may hold parquet "
                    f"files, or {_LAYOUTS[name]}"
                ) from error
    elif folder.is_dir():
        pictures, labels, classes = _read_folder(split, folder)
    else:
        known = ", ".join([*_READERS, "digits"])
        if folder.is_file():
            raise ConfigError(f"images are read from a folder of classes, {name!r} is a file")
        raise ConfigError(f"unknown image data {name!r}; known: {known}, hf:OWNER/NAME, a folder")
    return ImageData(
        name=f"{name}/{split}",
        images=torch.from_numpy(_squares(pictures, side)).permute(0, 3, 1, 2).contiguous(),
        labels=torch.from_numpy(labels.astype(np.int64)),
        classes=classes,
        hash=folder_hash(folder),
    )


def _squares(pictures: Iterable[Any] | np.ndarray, side: int) -> UInt8[np.ndarray, "N s s 3"]:
    """Cut PIL pictures, or arrays, to squares in the middle and resize them, one at a time."""
    from PIL import Image, ImageOps

    if isinstance(pictures, np.ndarray) and pictures.shape[1:] == (side, side, 3):
        return pictures
    if isinstance(pictures, np.ndarray):
        pictures = (Image.fromarray(p).convert("RGB") for p in pictures)
    fitted = (ImageOps.fit(p, (side, side), Image.Resampling.BILINEAR) for p in pictures)
    return np.stack([np.asarray(p) for p in fitted])


def _load_digits(split: str, side: int) -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16.0 * 255.0).float()[:, None]
    large = F.interpolate(pixels, size=(side, side), mode="bilinear").round().clamp(0, 255)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    chosen = order[:-360] if split == "train" else order[-360:]
    return ImageData(
        name=f"digits/{split}",
        images=large.to(torch.uint8).expand(-1, 3, -1, -1)[chosen].contiguous(),
        labels=torch.from_numpy(digits.target).long()[chosen],
        classes=tuple(str(c) for c in digits.target_names),
        hash="sklearn-digits",
    )


def _read_sheets(split: str, folder: Path) -> Pictures:
    """Read tiles from contact sheets, row by row: pictures of 32 x 32 tiles beside their labels."""
    labels = np.load(folder / f"{split}_labels.npy", allow_pickle=False)
    lines = (folder / "classes.txt").read_text(encoding="utf-8").split("\n")
    classes = tuple(line.split("\t")[0] for line in lines if line)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels are of shape {labels.shape} and type {labels.dtype}, not [N] int")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} are not of {len(classes)} classes"
        )
    sheets = sorted(folder.glob(f"{split}_[0-9][0-9].*"))
    if len({path.name.partition(".")[0] for path in sheets}) < len(sheets):
        names = ", ".join(path.name for path in sheets)
        raise ValueError(f"two files are one sheet of {names}; remove the copy")
    tiles = np.concatenate([read_tiles(path, TILE, TILE) for path in sheets])[: len(labels)]
    if len(tiles) != len(labels):
        raise ValueError(f"{len(tiles)} images but {len(labels)} labels")
    return tiles, labels, classes


def _read_mnist(split: str, folder: Path) -> Pictures:
    """Read MNIST's own files: a header of big-endian integers, then bytes."""
    stem = "t10k" if split == "test" else "train"
    pixels = _read_idx(folder, f"{stem}-images-idx3")
    labels = _read_idx(folder, f"{stem}-labels-idx1")
    if pixels.ndim != 3 or labels.ndim != 1 or len(pixels) != len(labels) or labels.max() > 9:
        raise ValueError(
            f"images of shape {pixels.shape} with labels of shape {labels.shape} up to "
            f"{labels.max()} are not images of ten digits"
        )
    return pixels, labels, tuple("0123456789")


def _read_idx(folder: Path, stem: str) -> np.ndarray:
    """Read bytes of as many axes as the file's header says, each with its size."""
    path, *_ = sorted(folder.glob(f"{stem}-ubyte*")) or [folder / f"{stem}-ubyte"]
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    kind, axes = data[2], data[3]
    shape = np.frombuffer(data, ">u4", count=axes, offset=4).astype(int)
    if kind != BYTES_IN_IDX or len(data) != 4 + 4 * axes + shape.prod():
        raise ValueError(f"{path.name} is damaged: {len(data)} bytes for the shape {tuple(shape)}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


_READERS: dict[str, Callable[[str, Path], Pictures]] = {
    "cifar10": _read_sheets,
    "cifar100": _read_sheets,
    "mnist": _read_mnist,
}
_SHEETS = "contact sheets (train_00.png and so on, train_labels.npy, classes.txt)"
_LAYOUTS = {
    "cifar10": _SHEETS,
    "cifar100": _SHEETS,
    "mnist": "its own files (train-images-idx3-ubyte.gz and so on)",
}
_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation")


def _read_folder(split: str, folder: Path) -> Pictures:
    """Read a folder of images with a folder for each class."""
    # A folder `train` without folders is a class of that name.
    train = [path for path in _named(folder, _TRAIN) if _folders(path)]
    root = train[0] if train else folder
    classes = _folders(root)
    if len(classes) < 2:
        raise DataError(f"{folder} has {len(classes)} folders of classes; at least two are needed")
    tests = _named(folder, _TEST) if train else []
    if split == "test" and tests:
        unknown = sorted({*_folders(tests[0])} - {*classes})
        if unknown:
            raise DataError(f"{tests[0]} has classes that {root} lacks: {', '.join(unknown)}")
        root = tests[0]
        files = _files(root, classes)
    else:
        files = _files(root, classes)
        empty = {*range(len(classes))} - {label for _, label in files}
        if files and empty:
            names = ", ".join(classes[label] for label in sorted(empty))
            raise DataError(f"{root} has classes without an image: {names}; remove their folders")
        if not tests:
            files = [f for i, f in enumerate(files) if (i % 10 == 9) == (split == "test")]
    if not files:
        few = "" if tests else ", or fewer than ten to take test images from"
        raise DataError(f"{root} holds no images in folders of classes{few}")
    # In a fixed order that mixes the classes, so that any part of it has all of them.
    mixed = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
    pictures = (read_picture(path, path) for path, _ in mixed)
    return pictures, np.array([label for _, label in mixed]), classes


def _files(root: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Return the pictures in the folders of classes, with their labels."""
    from PIL import Image

    known = Image.registered_extensions()
    return [
        (path, label)
        for label, name in enumerate(classes)
        if (root / name).is_dir()  # test images may lack a class
        for path in files_below(root / name)
        if path.suffix.lower() in known and not is_hidden(path.relative_to(root))
    ]


def _named(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the folders in a folder that have one of the names, in the names' order."""
    found = {name.casefold(): folder / name for name in _folders(folder)}
    return [found[name] for name in names if name in found]


def _folders(folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's folders, without those that programs leave behind."""
    names = (p.name for p in folder.iterdir() if p.is_dir())
    return tuple(sorted(n for n in names if not n.startswith((".", "__"))))


def normalize(images: UInt8[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """Map pixels to about zero mean and unit variance; one rule for all data: (x - 120) / 63."""
    return (images.float() - 120.0) / 63.0


def augment(
    images: UInt8[Tensor, "N C H W"],
    generator: torch.Generator,
    flip: float = 0.5,
    shift: int = 4,
) -> UInt8[Tensor, "N C H W"]:
    """Flip images left to right at random and shift each, filling with zeros.

    Args:
        images: Pixels.
        generator: Where the draws come from, on the CPU.
        flip: Share of images that are flipped.
        shift: Largest shift up, down, left or right, in pixels.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, (shift, shift, shift, shift))
    top = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator)
    flipped = torch.rand(count, 1, generator=generator) < flip
    rows = top + torch.arange(height)
    columns = torch.arange(width).expand(count, -1)
    columns = left + torch.where(flipped, width - 1 - columns, columns)
    picked = torch.arange(count, device=images.device)[:, None, None]
    rows, columns = (x.to(images.device, non_blocking=True) for x in (rows, columns))
    return padded.permute(0, 2, 3, 1)[picked, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )
