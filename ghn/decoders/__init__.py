"""Decoders: from node embeddings to one recipe for each parameter."""

from ghn.decoders.lowrank import LowRankDecoder, LowRankDecoderConfig
from ghn.decoders.registry import DECODERS, Decoder
from ghn.decoders.tiled import TiledDecoder, TiledDecoderConfig

__all__ = [
    "DECODERS",
    "Decoder",
    "LowRankDecoder",
    "LowRankDecoderConfig",
    "TiledDecoder",
    "TiledDecoderConfig",
]
