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
    """From node embeddings to one recipe for each parameter.

    Attributes:
        table_rows: Number of table rows that channels can take, which is the size of an order.
        shared_codes: Whether rows and columns of all parameters speak of the same channels.
    """

    Config: ClassVar[type[Config]]
    table_rows: int
    shared_codes: bool

    def __call__(
        self,
        embeddings: Float[Tensor, "B N d"],
        specs: Mapping[Any, ParamSpec],
        order: Mapping[Any, Tensor] | None = None,
    ) -> dict[Any, Recipe]:
        """Return a recipe for each spec, under its key.

        Args:
            embeddings: One vector for each node of all graphs, and each of B conditions.
            specs: Parameters to emit; `spec.node` indexes the nodes.
            order: For each key, the order in which channels take the rows of a code table; the
                table's own order if None.
        """
        ...


DECODERS: Registry[type[nn.Module]] = Registry("decoder")
"""Decoders by name. An entry has a class attribute `Config` and is built as `cls(config)`."""
