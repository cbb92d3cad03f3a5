"""Data: local-first readers of small data sets."""

from ghn.data.find import find_data, folder_hash
from ghn.data.images import ImageData, augment, load_images, normalize

__all__ = [
    "ImageData",
    "augment",
    "find_data",
    "folder_hash",
    "load_images",
    "normalize",
]
