"""Target networks: samplers of small networks, and every model that a name can build."""

from ghn.zoo.convnets import ConvNet, ConvNetConfig
from ghn.zoo.families import Family, families, find_architecture, find_family
from ghn.zoo.gpts import GPT, GPTConfig
from ghn.zoo.library import list_models, resolve_model
from ghn.zoo.registry import SAMPLERS, Sampler, Split, sample, sample_distinct
from ghn.zoo.vits import ViT, ViTConfig

__all__ = [
    "GPT",
    "SAMPLERS",
    "ConvNet",
    "ConvNetConfig",
    "Family",
    "GPTConfig",
    "Sampler",
    "Split",
    "ViT",
    "ViTConfig",
    "families",
    "find_architecture",
    "find_family",
    "list_models",
    "resolve_model",
    "sample",
    "sample_distinct",
]
