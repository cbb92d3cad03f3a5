"""The names of all decoders, and what every decoder has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from ghn.config import Config
from ghn.graphs import ParamSpec
from ghn.kernels import Recipe
from ghn.registry import Registry

__all__ = ["DECODERS", "Decoder"]


class Decoder(Protocol):
    """From node embeddings to recipes of all parameters.

    Attributes:
        shared_codes: Whether rows and columns of all parameters speak of the same channels.
        single_graph: Whether what is emitted for a parameter depends on the network's other
            parameters; a call then takes all parameters of one graph.
        pieces: In what portions it emits; a key of `ghn.axes.OUTPUTS`.
        any_network: Whether it emits parameters of any network, and not of one only.
    """

    Config: ClassVar[type[Config]]
    shared_codes: bool
    single_graph: bool
    pieces: str

    @property
    def any_network(self) -> bool:
        """See above; a class attribute where it depends on no setting."""
        ...

    def __call__(
        self,
        embeddings: Float[Tensor, "B N d"],
        specs: Mapping[Any, ParamSpec],
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return recipes; each has two batch axes, B conditions and n parameters, named by its key.

        Parameters that differ in nothing but their nodes share one recipe, so that what follows
        costs one call for all of them; see `ghn.decoders.nodes.stacks_of`.

        Args:
            embeddings: One vector for each node of all graphs, and each of B conditions.
            specs: Parameters to emit; `spec.node` indexes the nodes.
        """
        ...


DECODERS: Registry[type[nn.Module]] = Registry("decoder")
"""Decoders by name. An entry has a class attribute `Config` and is built as `cls(config)`."""
