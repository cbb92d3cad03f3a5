"""Decoders: from node embeddings to one recipe for each parameter."""

from ghn.decoders.chunked import ChunkedDecoder, ChunkedDecoderConfig
from ghn.decoders.dense import DenseDecoder, DenseDecoderConfig
from ghn.decoders.implicit import ImplicitDecoder, ImplicitDecoderConfig
from ghn.decoders.lowrank import LowRankDecoder, LowRankDecoderConfig
from ghn.decoders.recurrent import RecurrentDecoder, RecurrentDecoderConfig
from ghn.decoders.registry import DECODERS, Decoder
from ghn.decoders.tiled import TiledDecoder, TiledDecoderConfig

__all__ = [
    "DECODERS",
    "ChunkedDecoder",
    "ChunkedDecoderConfig",
    "Decoder",
    "DenseDecoder",
    "DenseDecoderConfig",
    "ImplicitDecoder",
    "ImplicitDecoderConfig",
    "LowRankDecoder",
    "LowRankDecoderConfig",
    "RecurrentDecoder",
    "RecurrentDecoderConfig",
    "TiledDecoder",
    "TiledDecoderConfig",
]
