"""Target networks: samplers of small networks, and every model that a name can build."""

from ghn.zoo.convnets import ConvNet, ConvNetConfig
from ghn.zoo.gpts import GPT, GPTConfig
from ghn.zoo.library import families, list_models, resolve_model
from ghn.zoo.registry import SAMPLERS, Sampler, Split, sample
from ghn.zoo.vits import ViT, ViTConfig

__all__ = [
    "GPT",
    "SAMPLERS",
    "ConvNet",
    "ConvNetConfig",
    "GPTConfig",
    "Sampler",
    "Split",
    "ViT",
    "ViTConfig",
    "families",
    "list_models",
    "resolve_model",
    "sample",
]
