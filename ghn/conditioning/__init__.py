"""Conditions: from a user's value to vectors or tokens, and how they enter node embeddings."""

from ghn.conditioning.entry import Addition, Concatenation, CrossAttention, FiLM
from ghn.conditioning.images import ImageEncoder, ImageEncoderConfig
from ghn.conditioning.noise import Noise, NoiseConfig
from ghn.conditioning.registry import CONDITIONS, ENTRIES, Condition, Entry
from ghn.conditioning.sizes import Size, SizeConfig
from ghn.conditioning.table import EmbeddingTable, EmbeddingTableConfig
from ghn.conditioning.unit import Unit, UnitConfig
from ghn.conditioning.values import Values, ValuesConfig
from ghn.conditioning.vectors import VectorEncoder, VectorEncoderConfig

__all__ = [
    "CONDITIONS",
    "ENTRIES",
    "Addition",
    "Concatenation",
    "Condition",
    "CrossAttention",
    "EmbeddingTable",
    "EmbeddingTableConfig",
    "Entry",
    "FiLM",
    "ImageEncoder",
    "ImageEncoderConfig",
    "Noise",
    "NoiseConfig",
    "Size",
    "SizeConfig",
    "Unit",
    "UnitConfig",
    "Values",
    "ValuesConfig",
    "VectorEncoder",
    "VectorEncoderConfig",
]
