"""Data: local-first readers of small data sets."""

from ghn.data.find import cache_folder, find_data, folder_hash
from ghn.data.images import ImageData, augment, load_images, normalize

__all__ = [
    "ImageData",
    "augment",
    "cache_folder",
    "find_data",
    "folder_hash",
    "load_images",
    "normalize",
]
