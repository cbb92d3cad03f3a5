"""Dense decoder: an MLP on the condition whose last layer has an output for every parameter.

The simplest hypernetwork, and the largest: with a last hidden layer of h units it has h + 1 times
as many parameters as the network that it is for.

Source: von Oswald et al. 2020 (arXiv 1906.00695) and Huang et al. 2021 (HyperCRL, arXiv
2009.11997), hypernetworks without chunks.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. P: parameters of the network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ghn.config import Config
from ghn.decoders.chunked import hidden_layers
from ghn.decoders.chunks import as_recipes, cut
from ghn.decoders.registry import DECODERS
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Recipe

__all__ = ["DenseDecoder", "DenseDecoderConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseDecoderConfig(Config):
    """Settings of `DenseDecoder`.

    Attributes:
        dim: Size d of a conditioned node embedding; of the condition, if there is no encoder.
        hidden: Widths of the hidden layers.
        outputs: Number P of parameters of the one network that the decoder is for.
    """

    dim: int = 24
    hidden: tuple[int, ...] = (50, 50)
    outputs: int = 1

    def __post_init__(self) -> None:
        if min(self.dim, *self.hidden, self.outputs) < 1:
            raise ConfigError(f"all sizes of a decoder must be at least 1, got {self}")


@DECODERS.register("dense")
class DenseDecoder(nn.Module):
    """Emits all parameters of one network from the mean of its conditioned node embeddings.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = DenseDecoderConfig
    shared_codes = False
    single_graph = True
    pieces = "once"
    any_network = False

    def __init__(self, config: DenseDecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = (config.dim, *config.hidden)[-1]
        self.body = hidden_layers((config.dim, *config.hidden))
        self.readout = nn.Linear(width, config.outputs)
        nn.init.normal_(self.readout.weight, std=1.0 / math.sqrt(width))
        nn.init.zeros_(self.readout.bias)

    def forward(
        self, embeddings: Float[Tensor, "B N d"], specs: Mapping[Any, ParamSpec]
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return recipes of stacks of specs; see `ghn.decoders.registry.Decoder`.

        Raises:
            ConfigError: If the network has another number of parameters.
        """
        total = sum(spec.numel for spec in specs.values())
        if total != self.config.outputs:
            raise ConfigError(
                f"this dense decoder emits {self.config.outputs:,} parameters, the network has "
                f"{total:,}; a dense decoder fits the one network that it was built for"
            )
        values = self.readout(self.body(embeddings.mean(1)))
        return as_recipes(values[:, None], specs, cut(specs, total, straddle=True))
