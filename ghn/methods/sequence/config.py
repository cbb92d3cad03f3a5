"""Settings that all learners of tasks share, and those of a hypernetwork for tasks."""

from __future__ import annotations

import dataclasses
import math

from ghn.conditioning import EmbeddingTableConfig
from ghn.config import Config
from ghn.decoders import DECODERS
from ghn.engine.hypernet import GHNConfig
from ghn.errors import ConfigError
from ghn.registry import name_of
from ghn.training.anchor import AnchorConfig

__all__ = ["HypernetworkConfig", "LoopConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig(Config):
    """Settings that all learners of tasks share.

    Attributes:
        steps: Adam steps for each task.
        rate: Learning rate.
        seed: Of initial weights, of the order of batches, and of dropout.
    """

    steps: int = 800
    rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.rate < math.inf:
            raise ConfigError(f"steps must be at least 1 and rate above 0 and finite, got {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HypernetworkConfig(Config):
    """Settings of a hypernetwork that emits one network for each of many tasks.

    Attributes:
        decoder: `"recurrent"`, `"chunked"` or `"dense"`.
        size: Wanted parameters of the hypernetwork, which sets the decoder's state and chunks; 0:
            those of the network and 22,000. A dense decoder has more.
        dim: Size of a task's embedding.
        codes: Where the codes of chunks come from: `"graph"` or `"learned"`.
        state: Units of a recurrent state, or widths of a chunked decoder's hidden layers; 0: by
            size.
        chunk: Numbers of a chunk; 0: by size.
        reset: Whether the recurrent state is reset before each step, for comparisons.
        anchor: How strongly, and how, what earlier tasks get is kept.
        hypernetwork: All settings of the hypernetwork, in place of `decoder` to `reset`. Its
            condition is an `EmbeddingTableConfig` without names: tasks become its rows.
    """

    decoder: str = "recurrent"
    size: int = 0
    dim: int = 24
    codes: str = "graph"
    state: int = 0
    chunk: int = 0
    reset: bool = False
    anchor: AnchorConfig = dataclasses.field(default_factory=AnchorConfig)
    hypernetwork: GHNConfig | None = None

    @property
    def decoder_name(self) -> str:
        """Name of the decoder: that of `hypernetwork` where it is given."""
        given = self.hypernetwork
        return self.decoder if given is None else name_of(DECODERS, given.decoder)

    def check_hypernetwork(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ConfigError: If a name is unknown, a size negative, a setting is of another decoder, or
                the condition of `hypernetwork` cannot take tasks.
        """
        if self.decoder not in ("recurrent", "chunked", "dense"):
            raise ConfigError(
                f"decoder must be 'recurrent', 'chunked' or 'dense', got {self.decoder!r}"
            )
        if self.codes not in ("graph", "learned"):
            raise ConfigError(f"codes must be 'graph' or 'learned', got {self.codes!r}")
        if min(self.size, self.state, self.chunk, self.dim - 1) < 0:
            raise ConfigError(f"sizes must not be negative and dim not 0, got {self}")
        if self.decoder != "recurrent" and self.reset:
            raise ConfigError(f"reset is for decoder='recurrent', got {self.decoder!r}")
        if self.hypernetwork:
            condition = self.hypernetwork.condition
            if not isinstance(condition, EmbeddingTableConfig) or condition.names:
                raise ConfigError(
                    "the condition of hypernetwork= must be a table without names, which tasks "
                    f"are added to, such as EmbeddingTableConfig(dim=24), got {condition}"
                )
