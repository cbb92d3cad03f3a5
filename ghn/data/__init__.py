"""Data: local-first readers of small data sets: labelled images, scenes, text."""

from ghn.data.find import find_data, folder_hash
from ghn.data.images import ImageData, augment, load_images, normalize
from ghn.data.scenes import SceneData, load_scenes
from ghn.data.text import BYTES, TextData, load_text, load_tokenizer, token_entropies

__all__ = [
    "BYTES",
    "ImageData",
    "SceneData",
    "TextData",
    "augment",
    "find_data",
    "folder_hash",
    "load_images",
    "load_scenes",
    "load_text",
    "load_tokenizer",
    "normalize",
    "token_entropies",
]
