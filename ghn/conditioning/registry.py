"""The names of all encoders of conditions and of all entries, and what they have in common."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from ghn.config import Config
from ghn.registry import Registry

__all__ = ["CONDITIONS", "ENTRIES", "Condition", "Entry"]


class Condition(Protocol):
    """From a user's values to vectors `[B, c]`, or to tokens `[B, T, c]`.

    Attributes:
        config: Settings that build it anew, what was added since included. Its `dim` is c, and its
            `gives_tokens` says which of the two comes out.
        source: Where values come from; a key of `ghn.axes.INPUTS`.
        is_open: Whether any value of the kind will do, and not only those that were added.
        architecture: What it computes with beside linear maps, if anything; some of
            `ghn.axes.ARCHITECTURES`. So for entries, encoders and decoders.
    """

    Config: ClassVar[type[Config]]
    config: Any
    source: str
    is_open: bool

    def encode(self, value: Any) -> tuple[Float[Tensor, "B *T c"], bool]:
        """Return what a value, or each value of a batch, is encoded to.

        Args:
            value: One value of the user's kind, or a batch of them.

        Returns:
            The encoding, and whether there was one value: its batch axis then has one entry.

        Raises:
            ConfigError: If it is not of that kind; an `UnknownNameError` if it is a name that
                nobody added.
            ShapeError: If it has the wrong shape.
        """
        ...


class Entry(Protocol):
    """From node embeddings `[N, d]` and encoded conditions to `[B, N, e]`.

    An entry is built as `cls(d, c)`.
    """

    takes_tokens: ClassVar[bool]

    @staticmethod
    def width(nodes: int, condition: int) -> int:
        """Return the size e of what comes out, for embeddings of size d and conditions of c."""
        ...

    def __call__(
        self, nodes: Float[Tensor, "N d"], condition: Float[Tensor, "B *T c"]
    ) -> Float[Tensor, "B N e"]:
        """Return the embeddings of all nodes under each condition."""
        ...


CONDITIONS: Registry[type[nn.Module]] = Registry("condition")
"""Encoders of conditions by name. An entry has a class attribute `Config`, built as `cls(config)`.
"""

ENTRIES: Registry[type[nn.Module]] = Registry("entry")
"""How a condition enters node embeddings, by name; see `Entry`."""
