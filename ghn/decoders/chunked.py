"""Chunked decoder: one small network emits a network's parameters piece by piece.

It reads the condition and which piece it is about, and all pieces are one batch. Given both, a
piece does not depend on the others.

Source: von Oswald et al. 2020 (Continual learning with hypernetworks, arXiv 1906.00695), chunked
hypernetworks.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. n: chunks. c: numbers of a chunk.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ghn.config import Config
from ghn.decoders.chunks import ChunkCodes, as_recipes, cut
from ghn.decoders.registry import DECODERS
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Recipe

__all__ = ["ChunkedDecoder", "ChunkedDecoderConfig", "hidden_layers"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkedDecoderConfig(Config):
    """Settings of `ChunkedDecoder`.

    Attributes:
        dim: Size d of a conditioned node embedding.
        hidden: Widths of the layers between; none makes the decoder linear.
        chunk: Numbers c of a chunk.
        codes: Number of learned codes, one for each chunk of the one network that the decoder is
            for; 0 takes codes from the graph, for any network.
        code_dim: Size of a learned code.
    """

    dim: int = 32
    hidden: tuple[int, ...] = (76, 76)
    chunk: int = 256
    codes: int = 0
    code_dim: int = 8

    def __post_init__(self) -> None:
        if min(self.dim, *self.hidden, self.chunk, self.code_dim, self.codes + 1) < 1:
            raise ConfigError(f"all sizes of a decoder must be at least 1, got {self}")


@DECODERS.register("chunked")
class ChunkedDecoder(nn.Module):
    """Emits dense recipes, chunk by chunk, for the parameters of one network.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = ChunkedDecoderConfig
    shared_codes = False
    single_graph = True
    pieces = "chunk"

    def __init__(self, config: ChunkedDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.codes = ChunkCodes(config.dim, config.codes, config.code_dim)
        width = config.hidden[-1] if config.hidden else self.codes.width
        self.body = hidden_layers((self.codes.width, *config.hidden))
        self.readout = nn.Linear(width, config.chunk)
        nn.init.normal_(self.readout.weight, std=1.0 / math.sqrt(width))
        nn.init.zeros_(self.readout.bias)

    @property
    def any_network(self) -> bool:
        """Whether codes come from the graph; learned ones are of one network."""
        return not self.config.codes

    def forward(
        self, embeddings: Float[Tensor, "B N d"], specs: Mapping[Any, ParamSpec]
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return recipes of stacks of specs; see `ghn.decoders.registry.Decoder`."""
        plan = cut(specs, self.config.chunk, straddle=bool(self.config.codes))
        values = self.readout(self.body(self.codes(embeddings, plan)))
        return as_recipes(values, specs, plan)


def hidden_layers(sizes: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers and rectifiers between sizes; signals keep their root mean square."""
    layers: list[nn.Module] = []
    for size, following in itertools.pairwise(sizes):
        layer = nn.Linear(size, following)
        nn.init.normal_(layer.weight, std=math.sqrt(2.0 / size))
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)
