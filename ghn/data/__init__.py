"""Data: local-first readers of small data sets: labelled images, scenes, text."""

from ghn.data.find import find_data, folder_hash
from ghn.data.images import ImageData, augment, load_images, normalize
from ghn.data.scenes import SceneData, load_scenes
from ghn.data.text import TextData, load_text, token_entropies

__all__ = [
    "ImageData",
    "SceneData",
    "TextData",
    "augment",
    "find_data",
    "folder_hash",
    "load_images",
    "load_scenes",
    "load_text",
    "normalize",
    "token_entropies",
]
